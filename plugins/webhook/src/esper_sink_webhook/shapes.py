"""A message as body and headers of a request: JSON, ntfy or Slack. Standard library only: the watcher has it too."""

from __future__ import annotations

import json
from typing import Final, Literal, TypeAlias

__all__ = ["Message", "Occasion", "Shape", "rendered"]

Shape: TypeAlias = Literal["json", "ntfy", "slack"]
Occasion: TypeAlias = Literal["started", "worsened", "recovered", "finished", "crashed"]
Message: TypeAlias = dict[str, str | int | float | None]
"""``event`` and ``text`` always; the rest as the README's table has it. Finite numbers only: JSON has no NaN."""

_URGENT: Final = {"worsened": "high", "crashed": "urgent"}
_TAGS: Final = {
    "started": "arrow_forward",
    "worsened": "warning",
    "recovered": "white_check_mark",
    "finished": "checkered_flag",
    "crashed": "rotating_light",
}


def rendered(message: Message, shape: Shape) -> tuple[dict[str, str], bytes]:
    """Headers and body of one message."""
    event, text = str(message["event"]), str(message["text"])
    if shape == "ntfy":
        # Header lines are ASCII: what a person named stands in the body.
        failed = message.get("state") == "failed"
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Title": f"Esper: {event}",
            "Tags": _TAGS.get(event, "test_tube"),
            "Priority": "high" if failed else _URGENT.get(event, "default"),
        }
        return headers, text.encode("utf-8", "replace")
    if shape == "slack":
        # Slack reads these three as mark-up: https://docs.slack.dev/messaging/formatting-message-text
        plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return _json({"text": f"Esper {event}: {plain}"})
    return _json(message)


def _json(document: Message) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "application/json"}, json.dumps(document, allow_nan=False).encode()
