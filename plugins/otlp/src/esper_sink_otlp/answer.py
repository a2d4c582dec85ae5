"""What became of one request, whatever the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from esper_sink_otlp.config import Signal

__all__ = ["Answer", "partial_success", "short"]

_REJECTED: Final = {"traces": "rejected_spans", "metrics": "rejected_data_points", "logs": "rejected_log_records"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one request.

    Attributes:
        ok: the receiver took it.
        code: what the receiver said, as a person knows it: ``HTTP 200``, ``UNAVAILABLE``; empty without an answer.
        cause: in words, why it failed; empty when it did not.
        hint: in words, what to do about it.
        retryable: the same request may succeed later: OTLP specification, section Failures, and a refused token.
        divisible: smaller requests may succeed: it was too large, or one item in it cannot be encoded.
        retry_after_s: how long the receiver asked to wait.
        rejected: items of it that the receiver did not take (partial success).
        latency_s: from sending to the answer.
        clock_ahead_s: how far this machine's clock is ahead of the receiver's; None when the answer does not say.
    """

    ok: bool
    code: str = ""
    cause: str = ""
    hint: str = ""
    retryable: bool = False
    divisible: bool = False
    retry_after_s: float | None = None
    rejected: int = 0
    latency_s: float = 0.0
    clock_ahead_s: float | None = None


def partial_success(signal: Signal, response: Any) -> tuple[int, str]:
    """Rejected items and the receiver's words, from the OTLP response to a request it took."""
    found = response.partial_success
    return max(0, getattr(found, _REJECTED[signal])), short(found.error_message)


def short(text: str) -> str:
    """What a receiver said, on one line of at most 200 characters, without any that steer a terminal."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= 200 else f"{line[:197]}..."
