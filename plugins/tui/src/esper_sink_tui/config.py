"""``[sink.tui]``: the viewer's options."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["TuiConfig"]


class TuiConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.tui]``."""

    theme: Annotated[str, Meta(description="esper, esper-light, esper-mono, or one of Textual's")] = "esper"
    ascii: Annotated[bool, Meta(description="draw with ASCII signs")] = False
    bell: Annotated[bool, Meta(description="ring when the verdict gets worse")] = False
    interval_s: Annotated[float, Meta(description="seconds between lines without a terminal", gt=0)] = 10.0
