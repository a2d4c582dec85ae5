"""The one error of this package."""

from __future__ import annotations

from esper_core.errors import EsperError

__all__ = ["CodecError"]


class CodecError(EsperError):
    """Bytes or attributes do not encode an Esper event; the message names the attribute.

    Attributes:
        run_id: the run that the span names; empty when it is unknown.
    """

    run_id: str = ""

    def of_run(self, run_id: object) -> CodecError:
        """Set the run, when it is text, and return this error."""
        self.run_id = run_id if isinstance(run_id, str) else ""
        return self
