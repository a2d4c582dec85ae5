"""What an outage costs: nothing behind the agent, a bound at the gateway, and nothing after a replay."""

from __future__ import annotations

import resource
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.collector

TOKEN = "a-token"
RECEIVER = """
receivers:
  otlp:
    protocols:
      http: {endpoint: "${env:ESPER_OTLP_HTTP}"}
      grpc: {endpoint: "${env:ESPER_OTLP_GRPC}"}
exporters:
  file/traces: {path: TRACES, flush_interval: 100ms, append: true}
  file/metrics: {path: METRICS, flush_interval: 100ms, append: true}
extensions: {health_check: {endpoint: "${env:ESPER_HEALTH}"}}
service:
  extensions: [health_check]
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [file/traces]}
    metrics: {receivers: [otlp], exporters: [file/metrics]}
"""
MORE_FILES = """
exporters:
  file: {path: TRACES, flush_interval: 100ms, append: true}
service:
  pipelines:
    traces: {exporters: [file]}
"""


def own_ids(events: list[Any]) -> Counter[str]:
    """Span ids of all spans that events stand for."""
    return Counter(span.span_id for event in events for span in event.trace.spans)


def ids_in(helpers: Any, path: Path) -> Counter[str]:
    return Counter(span["spanId"] for span in helpers.spans_in(path))


def start_gateway(stage: Any, certificates: Any, helpers: Any, traces: Path, prometheus: str, **env: str) -> Any:
    return stage.collector(
        helpers.CONFIG / "gateway.yaml",
        MORE_FILES.replace("TRACES", str(traces)),
        name="gateway",
        ESPER_TLS_CERT=str(certificates.cert),
        ESPER_TLS_KEY=str(certificates.key),
        ESPER_GATEWAY_TOKEN=TOKEN,
        ESPER_PROMETHEUS=prometheus,
        ESPER_BATCH_TIMEOUT="100ms",
        ESPER_SAMPLING_PERCENTAGE="100",
        ESPER_RETRY_MAX_INTERVAL="1s",
        **env,
    )


def test_gateway_away_and_agent_killed_meanwhile_costs_nothing(
    stage: Any, certificates: Any, tmp_path: Path, helpers: Any
) -> None:
    traces = tmp_path / "traces.jsonl"
    prometheus = stage.prometheus()
    gateway = start_gateway(
        stage, certificates, helpers, traces, prometheus.otlp, ESPER_DECISION_WAIT_AFTER_ROOT="500ms"
    )
    agent = stage.agent(gateway, certificates, ESPER_GATEWAY_TOKEN=TOKEN)

    def trouble(number: int) -> None:
        if number == 10:
            gateway.stop()
        if number == 25:
            agent.kill()  # with the first updates of the outage in its file
            agent.start()
        if number == 40:
            gateway.start()

    played = helpers.play(
        tmp_path / "runs",
        {"endpoint": agent.url},
        50,
        pause_s=0.04,
        between=trouble,
        kl=lambda number: 0.0001 * number,
    )
    wanted = own_ids(played.events())
    helpers.wait_for(lambda: ids_in(helpers, traces).keys() >= wanted.keys(), "every span behind the gateway")
    assert next(item for item in played.report.sinks if item.name == "otlp").lost == 0
    selector = f'esper_ppo_last_kl_divergence{{esper_run_id="{played.path.name}"}}'
    kl = [event.payload.kl_divergence for event in played.updates()]
    found = helpers.wait_for(
        lambda: len(points := prometheus.points(selector, time.time() - 300, time.time() + 1)) == 50 and points,
        "one point for every update",
    )
    assert [value for _, value in found] == kl


def test_gateway_killed_loses_at_most_what_it_held_and_a_replay_closes_the_gap(
    stage: Any, certificates: Any, tmp_path: Path, helpers: Any
) -> None:
    traces = tmp_path / "traces.jsonl"
    wait_s, pause_s = 1.5, 0.05
    gateway = start_gateway(
        *(stage, certificates, helpers, traces, "http://127.0.0.1:9/v1/metrics"),
        ESPER_DECISION_WAIT_AFTER_ROOT=f"{wait_s}s",
    )
    agent = stage.agent(gateway, certificates, ESPER_GATEWAY_TOKEN=TOKEN)
    killed_ns = 0

    def trouble(number: int) -> None:
        nonlocal killed_ns
        if number == 80:
            killed_ns = time.time_ns()
            gateway.kill()
        if number == 90:
            gateway.start()

    played = helpers.play(tmp_path / "runs", {"endpoint": agent.url}, 120, pause_s=pause_s, between=trouble)
    events = played.events()
    last = max(event.time_ns for event in events)

    def arrived() -> Counter[str]:
        return ids_in(helpers, traces)

    after = own_ids([event for event in events if event.time_ns > killed_ns + 500_000_000])
    helpers.wait_for(lambda: arrived().keys() >= after.keys(), "what came after the kill")
    lost = [event for event in events if event.trace.own.span_id not in arrived()]
    # Held: undecided traces, plus what travelled (sink's delay, agent's batch, a request unanswered at the kill; the
    # decision runs once a second).
    held_s = wait_s + 1.0 + 0.1 + 0.1 + 0.5
    assert all(killed_ns - held_s * 1e9 < event.time_ns for event in lost), [
        (killed_ns - event.time_ns) / 1e9 for event in lost
    ]
    assert len(lost) <= held_s / pause_s + 2
    assert lost, "the kill cost nothing: the test proves nothing"
    assert last > killed_ns
    helpers.esper(
        *("replay", str(played.path), "--to", "otlp", "--set", f"sink.otlp.endpoint={agent.url}"), cwd=tmp_path
    )
    helpers.wait_for(lambda: arrived().keys() >= own_ids(events).keys(), "the gap closed")
    replayed = {event.trace.own.span_id: event for event in helpers.events_in(traces)}
    assert replayed == {event.trace.own.span_id: event for event in events}


def test_a_warning_is_kept_although_its_rollout_was_seen_long_before(
    stage: Any, certificates: Any, tmp_path: Path, helpers: Any
) -> None:
    """The decision waits for the trace's root: the rollout's span alone says nothing."""
    traces = tmp_path / "traces.jsonl"
    gateway = start_gateway(
        *(stage, certificates, helpers, traces, "http://127.0.0.1:9/v1/metrics"),
        ESPER_DECISION_WAIT_AFTER_ROOT="200ms",
    )
    endpoint = {"endpoint": f"https://localhost:{gateway.http}", "certificate": str(certificates.ca)}
    from esper_core.hooks import Secret

    del Secret
    gateway.stop()
    gateway.env["ESPER_SAMPLING_PERCENTAGE"] = "0"
    gateway.start()
    played = helpers.play(
        tmp_path / "runs",
        {**endpoint, "headers": {"authorization": f"Bearer {TOKEN}"}},
        2,
        kl=lambda number: 0.02 if number == 2 else 0.001,
        inside_update=lambda number: time.sleep(4.0 if number == 2 else 0.0),
    )
    healthy, warning = played.updates()
    whole = {span.span_id for span in warning.trace.spans}
    helpers.wait_for(lambda: ids_in(helpers, traces).keys() >= whole, "the warning's whole trace")
    assert healthy.trace.own.span_id not in ids_in(helpers, traces)


def test_the_collector_away_during_a_run_is_made_good_by_a_replay_twice_equal(
    stage: Any, tmp_path: Path, helpers: Any
) -> None:
    """The dashboard's KL panel has one point for every update afterwards."""
    prometheus = stage.prometheus()
    metrics = f"sink.otlp.metrics_endpoint={prometheus.otlp}"
    traces = tmp_path / "traces.jsonl"
    receiver = stage.collector(
        RECEIVER.replace("TRACES", str(traces)).replace("METRICS", str(tmp_path / "metrics.jsonl")), name="receiver"
    )
    # Half of the run arrives; then everything is away until the end.
    away = threading.Event()

    def trouble(number: int) -> None:
        if number == 15:
            time.sleep(0.5)
            away.set()
            prometheus.stop()
            receiver.stop()

    played = helpers.play(
        tmp_path / "runs",
        {"endpoint": receiver.url, "metrics_endpoint": prometheus.otlp},
        30,
        pause_s=0.02,
        between=trouble,
        kl=lambda number: 0.0007 * number,
    )
    lost = next(item for item in played.report.sinks if item.name == "otlp")
    assert lost.lost > 0
    assert "do not arrive" in lost.message  # refused, or closed in the middle of stopping
    prometheus.start()
    receiver.start()
    updates = played.updates()
    selector = f'esper_ppo_last_kl_divergence{{esper_run_id="{played.path.name}"}}'
    wanted = [(event.time_ns // 1_000_000 / 1000, event.payload.kl_divergence) for event in updates]
    before = prometheus.points(selector, time.time() - 300, time.time() + 1)
    assert before == wanted[: len(before)]
    assert len(before) < 30
    seen = []
    for _ in range(2):
        done = helpers.esper(
            *("replay", str(played.path), "--to", "otlp"),
            *("--set", f"sink.otlp.endpoint={receiver.url}", "--set", metrics),
            cwd=tmp_path,
        )
        seen.append(prometheus.points(selector, time.time() - 300, time.time() + 1))
        said = done.stdout + done.stderr
        assert "histograms" in said
        assert "counters" in said
    assert seen == [wanted, wanted]
    # One series: a replay is not another process.
    assert len(prometheus.query(f"last_over_time({selector}[10m])")) == 1
    ids = helpers.wait_for(
        lambda: (found := ids_in(helpers, traces)).keys() >= own_ids(played.events()).keys() and found, "the spans"
    )
    assert set(ids) == set(own_ids(played.events()))


def test_points_older_than_the_window_are_kept_out_with_a_count_and_cost_nothing_else(
    stage: Any, tmp_path: Path, helpers: Any
) -> None:
    """One of them would cost its whole request at Prometheus (measured: 400, and the Collector drops it all)."""
    prometheus = stage.prometheus()
    hours = {number: 3.0 if number <= 5 else 0.01 for number in range(1, 11)}
    number_now = 1

    def clock() -> int:
        return time.time_ns() - int(hours[number_now] * 3600e9)

    def between(number: int) -> None:
        nonlocal number_now
        number_now = number

    played = helpers.play(tmp_path / "runs", None, 10, pause_s=0.01, clock_ns=clock, between=between)
    receiver = stage.collector(
        RECEIVER.replace("TRACES", str(tmp_path / "t")).replace("METRICS", str(tmp_path / "m")), name="receiver"
    )
    done = helpers.esper(
        *("replay", str(played.path), "--to", "otlp", "--set", f"sink.otlp.endpoint={receiver.url}"),
        *("--set", f"sink.otlp.metrics_endpoint={prometheus.otlp}"),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert "of 5 updates kept out" in done.stderr
    assert "replay_window_s" in done.stderr
    selector = f'esper_ppo_last_kl_divergence{{esper_run_id="{played.path.name}"}}'
    young = prometheus.points(selector, time.time() - 600, time.time() + 1)
    assert len(young) == 5


def test_follow_ships_a_running_journal(stage: Any, tmp_path: Path, helpers: Any) -> None:
    """A run without the otlp sink, and a replay beside it that follows to its end."""
    traces = tmp_path / "traces.jsonl"
    receiver = stage.collector(
        RECEIVER.replace("TRACES", str(traces)).replace("METRICS", str(tmp_path / "m")), name="receiver"
    )
    base = tmp_path / "runs"
    followed: list[Any] = []

    def follow() -> None:
        run = next(path for path in base.iterdir() if path.is_dir())
        followed.append(
            helpers.esper(
                *("replay", str(run), "--to", "otlp", "--follow", "--set", f"sink.otlp.endpoint={receiver.url}"),
                *("--set", "sink.otlp.delay_s=0.1"),
                cwd=tmp_path,
            )
        )

    thread = threading.Thread(target=follow)
    shipped_while_running: Callable[[], bool] = lambda: bool(ids_in(helpers, traces))  # noqa: E731  # used in a closure below
    early = False

    def between(number: int) -> None:
        nonlocal early
        if number == 2:
            thread.start()
        if number == 30:
            early = bool(helpers.wait_for(shipped_while_running, "spans of the running run"))

    played = helpers.play(base, None, 30, pause_s=0.02, between=between)
    thread.join(250)
    assert early
    assert followed
    assert followed[0].returncode == 0
    helpers.wait_for(lambda: ids_in(helpers, traces).keys() >= own_ids(played.events()).keys(), "all of it")


def test_a_resumed_run_is_replayed_with_each_attempts_own_instance(stage: Any, tmp_path: Path, helpers: Any) -> None:
    """Else a replay would draw second series beside the live ones."""
    prometheus = stage.prometheus()
    sinks: tuple[str, ...] = ("--sinks", "journal,otlp", "--set", f"sink.otlp.metrics_endpoint={prometheus.otlp}")
    sinks = (*sinks, "--set", 'sink.otlp.signals=["metrics"]')
    train = ("ppo", "--env", "CartPole-v1", "--set", "run.checkpoint_interval_s=0", *sinks)
    helpers.esper(*train, "--updates", "3", cwd=tmp_path)
    helpers.esper(*train, "--resume", "latest", "--updates", "6", cwd=tmp_path)

    def series() -> list[dict[str, str]]:
        return [item["metric"] for item in prometheus.query("last_over_time(esper_ppo_last_kl_divergence[10m])")]

    live = series()
    assert {item["esper_run_attempt"] for item in live} == {"1", "2"}
    assert len({item["instance"] for item in live}) == 2
    helpers.esper("replay", "latest", "--to", "otlp", *sinks[2:], cwd=tmp_path)
    assert series() == live


def test_a_killed_trainer_loses_a_second_of_spans(stage: Any, tmp_path: Path, helpers: Any) -> None:
    """A real training, SIGKILLed. That an alert says so, test_collector_alerts.py proves."""
    import signal
    import subprocess
    import sys

    from esper_core.reading import open_run

    prometheus = stage.prometheus()
    traces = tmp_path / "traces.jsonl"
    receiver = stage.collector(
        RECEIVER.replace("TRACES", str(traces)).replace("METRICS", str(tmp_path / "m")), name="receiver"
    )
    trainer = subprocess.Popen(
        [
            *(sys.executable, "-m", "esper_core", "ppo", "--env", "CartPole-v1", "--steps", "0"),
            *("--sinks", "journal,otlp", "--set", f"sink.otlp.endpoint={receiver.url}"),
            *("--set", f"sink.otlp.metrics_endpoint={prometheus.otlp}"),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        helpers.wait_for(lambda: len(ids_in(helpers, traces)) > 20, "spans of the run")
        time.sleep(2)
    finally:
        trainer.send_signal(signal.SIGKILL)
        trainer.wait(250)
    events = list(open_run("latest", str(tmp_path / "runs")).events())
    time.sleep(0.5)
    arrived = ids_in(helpers, traces)
    lost = [event for event in events if event.trace.own.span_id not in arrived]
    # What waited for its batch is lost, and nothing before it.
    assert 0 <= len(lost) < len(events)
    assert lost == events[len(events) - len(lost) :]
    helpers.esper("replay", "latest", "--to", "otlp", "--set", f"sink.otlp.endpoint={receiver.url}", cwd=tmp_path)
    helpers.wait_for(lambda: ids_in(helpers, traces).keys() >= own_ids(events).keys(), "the rest, by replay")


def test_the_gateway_takes_out_points_that_would_cost_their_request(
    stage: Any, certificates: Any, tmp_path: Path, helpers: Any
) -> None:
    """The trap itself first: straight to Prometheus, five old points take five young ones with them."""
    prometheus = stage.prometheus()
    now_number = 1

    def clock() -> int:
        return time.time_ns() - int((30 * 3600 if now_number <= 5 else 60) * 1e9)

    def between(number: int) -> None:
        nonlocal now_number
        now_number = number

    # Old is measured against the newest point that Prometheus has: another run's, of now.
    helpers.play(tmp_path / "runs", {"signals": ["metrics"], "metrics_endpoint": prometheus.otlp}, 2)
    played = helpers.play(tmp_path / "runs", None, 10, pause_s=0.01, clock_ns=clock, between=between)
    selector = f'esper_ppo_last_kl_divergence{{esper_run_id="{played.path.name}"}}'
    replay = ("replay", str(played.path), "--to", "otlp", "--set", "sink.otlp.replay_window_s=1000000")

    def young() -> int:
        return len(prometheus.points(selector, time.time() - 600, time.time() + 1))

    metrics = ("--set", 'sink.otlp.signals=["metrics"]')
    helpers.esper(
        *replay, *metrics, "--set", f"sink.otlp.metrics_endpoint={prometheus.otlp}", cwd=tmp_path, check=False
    )
    assert young() == 0
    gateway = start_gateway(stage, certificates, helpers, tmp_path / "t", prometheus.otlp)
    helpers.esper(
        *replay,
        *metrics,
        *("--set", f"sink.otlp.endpoint=https://localhost:{gateway.http}"),
        *("--set", f"sink.otlp.certificate={certificates.ca}"),
        *("--set", f"sink.otlp.headers.authorization=Bearer {TOKEN}"),
        cwd=tmp_path,
    )
    assert helpers.wait_for(lambda: young() == 5, "the young points")
    assert gateway.own_metric("otelcol_processor_filter_datapoints_filtered") > 0


def test_a_full_disk_under_the_agent_is_counted_and_ends_by_itself(
    stage: Any, certificates: Any, tmp_path: Path, helpers: Any
) -> None:
    """A limit on the size of files stands for the disk: writes fail, and later they do not.

    The limit leaves a database its two pages of metadata, so that every write of data fails. (At the file's present
    size only growth would fail, and a database grows when it likes: it doubles, and uses freed pages again.) The
    agent's log is a file too and stands still meanwhile.
    """
    traces = tmp_path / "traces.jsonl"
    gateway = start_gateway(
        *(stage, certificates, helpers, traces, "http://127.0.0.1:9/v1/metrics"),
        ESPER_DECISION_WAIT_AFTER_ROOT="200ms",
    )
    gateway.stop()
    agent = stage.agent(gateway, certificates, ESPER_GATEWAY_TOKEN=TOKEN)
    unqueued, refused = "otelcol_exporter_enqueue_failed_spans", "otelcol_receiver_refused_spans"

    def limit(size: int) -> None:
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def trouble(number: int) -> None:
        if number == 10:
            limit(2 * resource.getpagesize())
        if number == 60:
            helpers.wait_for(lambda: agent.own_metric(unqueued) > 0, "spans that the agent cannot put on disk")
            helpers.wait_for(lambda: agent.own_metric(refused) > 0, "its answer that it refuses them")
            size, room = (agent.own_metric(f"otelcol_exporter_queue_{name}") for name in ("size", "capacity"))
            assert size < 0.1 * room
            limit(resource.RLIM_INFINITY)
            gateway.start()

    played = helpers.play(
        tmp_path / "runs", {"endpoint": agent.url, "signals": ["traces"]}, 80, pause_s=0.02, between=trouble
    )
    # What the sink held is not lost: not one span of its queue, and nothing from the moment of the relief on.
    assert next(item for item in played.report.sinks if item.name == "otlp").lost == 0
    events = played.events()
    after = own_ids([event for event in events if getattr(event.payload, "update_id", 0) >= 60])
    helpers.wait_for(lambda: ids_in(helpers, traces).keys() >= after.keys(), "every span from the relief on")
    assert agent.own_metric("otelcol_exporter_send_failed_spans") == 0
    # A batch that the agent was about to send just then may be gone (measured in 1 of 15 tries, and it is in no count):
    # a Collector that cannot mark a batch as under way removes it. The journal has it.
    helpers.esper(
        *("replay", str(played.path), "--to", "otlp", "--set", f"sink.otlp.endpoint={agent.url}"), cwd=tmp_path
    )
    helpers.wait_for(lambda: ids_in(helpers, traces).keys() >= own_ids(events).keys(), "all of it")
