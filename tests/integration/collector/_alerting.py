"""A real Prometheus and a real Alertmanager with the repository's files at shorter times, and somebody who is told."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import yaml

from rules import rules

if TYPE_CHECKING:
    from pathlib import Path

    from rules import Times


def prometheus_config(helpers: Any, home: Path, times: Times, **targets: str) -> str:
    """The repository's configuration with its rules at shorter times; ``targets`` are host:port."""
    document = yaml.safe_load((helpers.CONFIG / "prometheus" / "prometheus.yml").read_text())
    document["global"] = {"evaluation_interval": "1s", "scrape_interval": "1s", "scrape_timeout": "1s"}
    (home / "short.rules.yml").write_text(rules(times))
    document["rule_files"] = [str(home / "short.rules.yml")]
    (home / "targets").mkdir()
    for item in (*document["alerting"]["alertmanagers"], *document["scrape_configs"]):
        for found in item["file_sd_configs"]:
            (name,) = found["files"]
            given = targets.get(name.removeprefix("targets/").removesuffix(".yml"))
            (home / name).write_text(yaml.safe_dump([{"targets": [given]}] if given else []))
            found["files"] = [str(home / name)]
    text: str = yaml.safe_dump(document)
    return text


class Webhook:
    """Receives what Alertmanager sends: each firing and each resolved alert, by name and run.

    Attributes:
        messages: status, alert and run of each alert in each message.
        episodes: status, alert, run and beginning of each; a message that is sent again is the same episode.
        texts: annotations of each alert.
    """

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, str]] = []
        self.episodes: set[tuple[str, str, str, str]] = set()
        self.texts: list[dict[str, str]] = []
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    labels = alert["labels"]
                    what = (alert["status"], labels["alertname"], labels.get("esper_run_id", ""))
                    told.messages.append(what)
                    told.episodes.add((*what, alert["startsAt"]))
                    told.texts.append(alert["annotations"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def firing(self) -> Counter[tuple[str, str]]:
        """How often each alert of a run arrived as firing."""
        return Counter((name, run) for status, name, run in self.messages if status == "firing")

    def begun(self) -> Counter[tuple[str, str]]:
        """How often each alert of a run began."""
        return Counter((name, run) for status, name, run, _ in self.episodes if status == "firing")

    def resolved(self) -> set[tuple[str, str]]:
        return {(name, run) for status, name, run in self.messages if status == "resolved"}


def start_alertmanager(stage: Any, helpers: Any, webhook: Webhook, group_wait: str = "1s") -> str:
    """The repository's routes and inhibitions, without their waits; returns its address."""
    binary = shutil.which("alertmanager") or helpers.require("prometheus-alertmanager")
    document = yaml.safe_load((helpers.CONFIG / "prometheus" / "alertmanager.yml").read_text())
    document["route"] |= {"group_wait": group_wait, "group_interval": "1s"}
    for receiver in document["receivers"]:
        for hook in receiver["webhook_configs"]:
            hook["url"] = webhook.url
    folder = stage.directory("alertmanager")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(document))
    (port,) = helpers.free_ports(1)
    stage._begun(
        helpers.Program(
            name="alertmanager",
            argv=[
                binary,
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            home=folder,
            ready_url=f"http://127.0.0.1:{port}/-/ready",
        )
    )
    return f"127.0.0.1:{port}"
