"""Whether today's ratios are those that were recorded.

The rule: a ratio is slower when today's lower quartile lies above the recorded upper quartile by more than 1.5 times
the distance of the recorded quartiles, and by more than a tenth of the recorded median. So at least three of four
rounds of today lie beyond what the recorded rounds leave as chance (Tukey's fence), and a row whose rounds happened to
agree closely has a tenth of play: process layouts differ from run to run more than rounds within a run do. Faster is
the same the other way round; it is told, and fails nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from esper_bench.record import Measured
    from esper_bench.spread import Spread

__all__ = ["Finding", "compare", "judge"]

_FENCE: Final = 1.5
_PLAY: Final = 0.1

Verdict = Literal["held", "slower", "faster", "not recorded", "not measured", "lost"]


class Finding(NamedTuple):
    """One ratio, or what stands in its place."""

    row: str
    peer: str
    verdict: Verdict
    text: str

    @property
    def fails(self) -> bool:
        """Whether ``make bench-check`` fails by it."""
        return self.verdict in {"slower", "lost"}


def judge(recorded: Spread, today: Spread) -> Literal["held", "slower", "faster"]:
    """By the rule of this module."""
    play = max(_FENCE * (recorded.high - recorded.low), _PLAY * recorded.middle)
    if today.low > recorded.high + play:
        return "slower"
    if today.high < recorded.low - play:
        return "faster"
    return "held"


def compare(recorded: Measured | None, today: Measured) -> list[Finding]:
    """A finding for each peer of a row, and one when events were lost that the record kept."""
    if recorded is None or (recorded.what, recorded.per) != (today.what, today.per):
        return [Finding(today.name, "", "not recorded", "other work was recorded, or none: make bench")]
    found = []
    if today.kept < recorded.kept:
        found.append(Finding(today.name, "", "lost", f"kept {today.kept:,}, recorded {recorded.kept:,}"))
    before = {peer.name: peer for peer in recorded.peers}
    for peer in today.peers:
        known = before.get(peer.name)
        if peer.ratio is None:
            found.append(Finding(today.name, peer.name, "not measured", peer.absent))
        elif known is None or known.ratio is None:
            found.append(Finding(today.name, peer.name, "not recorded", f"today {_words(peer.ratio)}: make bench"))
        else:
            text = f"recorded {_words(known.ratio)}, today {_words(peer.ratio)}"
            found.append(Finding(today.name, peer.name, judge(known.ratio, peer.ratio), text))
    return found


def _words(of: Spread) -> str:
    return f"{of.middle:.3g} ({of.low:.3g} to {of.high:.3g})"
