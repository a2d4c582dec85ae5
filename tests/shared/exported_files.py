"""What is in the files that a Collector's file exporter, or a journal, wrote."""

from __future__ import annotations

import contextlib
import gzip
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


__all__ = ["events_in", "records_in", "spans_in"]


def _documents(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may be written at this moment, by a Collector that may have been killed."""
    if not path.exists():
        return []
    found = []
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    for line in text.splitlines(keepends=True):
        # A killed Collector leaves a torn line, and the next one appends to it: what was torn counts as lost, and what
        # was appended does not.
        whole = line[max(0, *map(line.rfind, ('{"resourceSpans"', '{"resourceMetrics"'))) :]
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(whole if line.endswith("\n") else "torn"))
    return found


def spans_in(path: Path) -> list[dict[str, Any]]:
    """Spans that a Collector's file exporter wrote."""
    return [
        span
        for document in _documents(path)
        for resource in document.get("resourceSpans", [])
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def records_in(*paths: Path) -> list[dict[str, Any]]:
    """Log records that a Collector's file exporter, or a journal, wrote: what a reader of OTLP gets from them."""
    return sorted(
        (
            {
                "resource": _plain(resource["resource"]["attributes"])["esper.run.id"],
                "scope": scope["scope"],
                "schema": scope.get("schemaUrl"),
                "attributes": _plain(record["attributes"]),
                **{key: value for key, value in record.items() if key not in {"attributes", "body"}},
            }
            for path in paths
            for document in _documents(path)
            for resource in document.get("resourceLogs", [])
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ),
        key=repr,
    )


def _plain(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in pairs}


def events_in(path: Path) -> list[Any]:
    """Events that the spans in a file exporter's file decode to, whatever requests they came in."""
    from esper_core.semconv.codec import decode_traces

    joined = {"resourceSpans": [item for one in _documents(path) for item in one.get("resourceSpans", [])]}
    return decode_traces(joined)
