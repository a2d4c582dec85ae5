"""Runs side by side: grouped by configuration, seeds as mean and spread, and what differs between the groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from esper_core.averages import deviation, mean
from esper_core.errors import ConfigError
from esper_core.health import HealthLevel
from esper_core.reading.index import scan_index
from esper_core.reading.settings import run_settings
from esper_core.reading.stream import stream_blocks
from esper_core.runs.reader import JournalReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from esper_core.events import HeadKind, PolicyEvaluated
    from esper_core.health import KLLimits, KLOn
    from esper_core.reading.cells import Block
    from esper_core.reading.run import Run

    Follow: TypeAlias = "Callable[[Run, Iterator[Block]], Iterator[Block]]"

__all__ = ["ComparedRun", "Comparison", "Follow", "Group", "Stat", "compare"]

LAST: Final = 10
"""Updates behind a run's figures at its end."""


@dataclass(frozen=True, slots=True)
class Stat:
    """A figure over the seeds of a group.

    Attributes:
        mean: over the runs that have it; None when none has.
        deviation: standard deviation over them (n - 1); None below two.
        count: how many have it.
    """

    mean: float | None
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Stat:
        """Of the values that are finite."""
        found = [value for value in values if value is not None and math.isfinite(value)]
        if not found:
            return cls(None, None, 0)
        return cls(mean(found), deviation(found, freedom=1) if len(found) > 1 else None, len(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One run's curves and figures.

    Attributes:
        run_id: the run.
        seed: that it was trained with; None when it is not known.
        state: what became of it.
        verdict: its label.
        kl_on: the KL that is judged: ``weighted`` or ``joint``.
        updates: made.
        env_steps: of each update.
        kl: the judged KL of each update, nats; NaN where it was not measured.
        returns: the mean of the last 100 episodes at each update, or of its rollout; NaN before the first.
        early_stops: updates that the KL ended.
        source: the run itself.
        limits: of its KL.
        stop_threshold: the last update's limit of early stopping, nats; None when it is off or on the other KL.
        update_ids: of the updates, ascending.
        stopped: ids of the updates that the KL ended.
        non_finite: ids of the updates whose level is non-finite.
        heads: name -> KL of each update, nats; NaN where it was not measured.
        kinds: name -> what the head draws from, as the last update that has it says.
        evaluations: while training, ascending by update.
    """

    run_id: str
    seed: int | None
    state: str
    verdict: str
    kl_on: str
    updates: int
    env_steps: tuple[int, ...]
    kl: tuple[float, ...]
    returns: tuple[float, ...]
    early_stops: int
    source: Run
    limits: KLLimits
    stop_threshold: float | None
    update_ids: tuple[int, ...]
    stopped: tuple[int, ...]
    non_finite: tuple[int, ...]
    heads: Mapping[str, tuple[float, ...]]
    kinds: Mapping[str, HeadKind]
    evaluations: tuple[PolicyEvaluated, ...]

    @property
    def last_return(self) -> float | None:
        """The return at the end."""
        return next((value for value in reversed(self.returns) if math.isfinite(value)), None)

    @property
    def last_kl(self) -> float | None:
        """Mean of the judged KL over the last ten updates, nats."""
        found = [value for value in self.kl[-LAST:] if math.isfinite(value)]
        return mean(found) if found else None

    @property
    def stopped_share(self) -> float | None:
        """Share of the updates that the KL ended, 0..1."""
        return self.early_stops / self.updates if self.updates else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs of one configuration, which differ in their seed.

    Attributes:
        name: A, B, ... in the order in which they were given.
        runs: its runs.
        config: what the configuration says, by dotted key, without what tells seeds apart.
    """

    name: str
    runs: tuple[ComparedRun, ...]
    config: Mapping[str, Any]

    def stat(self, figure: Callable[[ComparedRun], float | None]) -> Stat:
        """A figure over the group's runs."""
        return Stat.of(figure(run) for run in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Groups, and where their configurations differ.

    Attributes:
        groups: in the order given.
        differing: dotted key -> value in each group, in their order; None where a group does not have it.
        notes: what a reader must know: configurations that cannot be read, KLs of two kinds.
    """

    groups: tuple[Group, ...]
    differing: Mapping[str, tuple[Any, ...]]
    notes: tuple[str, ...]


def _as_they_come(_: Run, blocks: Iterator[Block]) -> Iterator[Block]:
    return blocks


def compare(runs: Sequence[Run], *, follow: Follow = _as_they_come) -> Comparison:
    """Read the runs, group them, and say what differs. A run given twice counts once.

    Args:
        runs: the runs.
        follow: passes on the updates of a run as they are read, for who says how far that is.
    """
    found: dict[str, tuple[Mapping[str, Any], list[ComparedRun]]] = {}
    notes = []
    for run in dict.fromkeys(runs):
        config, fault = run_settings(run)
        if fault:
            notes.append(f"{run.run_id}: {fault}; it is a group of its own")
        key = repr(sorted(config.items())) if config else run.run_id
        found.setdefault(key, (config, []))[1].append(_read(run, follow))
    groups = tuple(
        Group(name=_letter(place), runs=tuple(members), config=config)
        for place, (config, members) in enumerate(found.values())
    )
    if len({run.kl_on for group in groups for run in group.runs}) > 1:
        notes.append("the runs are judged on different KLs, weighted and joint: their KL figures are not comparable")
    return Comparison(groups=groups, differing=_differing(groups), notes=tuple(notes))


def _read(run: Run, follow: Follow) -> ComparedRun:
    limits = run.limits
    found = _Curves(limits.on)
    index = scan_index(run.directory)
    for block in follow(run, stream_blocks(index, JournalReader(run.directory))):
        found.add(block)
    record = run.record
    return ComparedRun(
        run_id=run.run_id,
        seed=_seed(run),
        state=run.state.value,
        verdict=run.verdict().label,
        kl_on=limits.on,
        updates=len(found.ids) or (record.updates if record is not None else 0),
        env_steps=tuple(found.steps),
        kl=tuple(found.kls),
        returns=tuple(found.returns),
        early_stops=len(found.stopped),
        source=run,
        limits=limits,
        stop_threshold=found.threshold,
        update_ids=tuple(found.ids),
        stopped=tuple(found.stopped),
        non_finite=tuple(found.non_finite),
        heads={name: tuple(found.padded(values)) for name, values in found.heads.items()},
        kinds=found.kinds,
        evaluations=index.evaluations,
    )


class _Curves:
    """What is kept of a run's updates.

    Args:
        on: the KL that is judged.
    """

    def __init__(self, on: KLOn) -> None:
        self._on = on
        self.ids: list[int] = []
        self.steps: list[int] = []
        self.kls: list[float] = []
        self.returns: list[float] = []
        self.stopped: list[int] = []
        self.non_finite: list[int] = []
        self.heads: dict[str, list[float]] = {}
        self.kinds: dict[str, HeadKind] = {}
        self.threshold: float | None = None

    def add(self, block: Block) -> None:
        """Take some updates in, which follow those before."""
        for name in block.columns():
            kind, _, rest = name.partition(".")
            if kind == "head" and rest.endswith(".kl"):
                self._add_head(block, rest.removesuffix(".kl"))
        ids = cast("list[int]", block.column("update_id"))
        self.ids += ids
        self.steps += cast("list[int]", block.column("env_steps"))
        self.kls += _numbers(block.column("kl_joint" if self._on == "joint" else "kl_divergence"))
        recent, own = block.column("return_mean_100"), block.column("return_mean")
        self.returns += _numbers([mean if last is None else last for last, mean in zip(recent, own, strict=True)])
        self.stopped += _where(ids, block.column("outcome"), "early_stopped")
        self.non_finite += _where(ids, block.column("health"), HealthLevel.NON_FINITE)
        if ids:
            on = block.column("stop_on")[-1] == self._on
            self.threshold = cast("float | None", block.column("stop_threshold")[-1]) if on else None

    def _add_head(self, block: Block, head: str) -> None:
        kinds = [kind for kind in block.column(f"head.{head}.kind") if kind is not None]
        if kinds:
            self.kinds[head] = cast("HeadKind", kinds[-1])
            self.heads[head] = self.padded(self.heads.get(head, []))
            self.heads[head] += _numbers(block.column(f"head.{head}.kl"))

    def padded(self, values: list[float]) -> list[float]:
        """The same list, with NaN for the updates since its last one."""
        values += [math.nan] * (len(self.ids) - len(values))
        return values


def _numbers(values: Sequence[object]) -> list[float]:
    return [math.nan if value is None else cast("float", value) for value in values]


def _where(ids: Sequence[int], values: Sequence[object], wanted: str) -> list[int]:
    if wanted not in values:
        return []
    return [update_id for update_id, value in zip(ids, values, strict=True) if value == wanted]


def _seed(run: Run) -> int | None:
    try:
        found = run.config.get("run", {}).get("seed")
    except ConfigError:
        return None
    return found if isinstance(found, int) else None


def _differing(groups: Sequence[Group]) -> dict[str, tuple[Any, ...]]:
    """Keys whose value is not the same in all groups that have a configuration."""
    keys = dict.fromkeys(key for group in groups for key in group.config)
    rows = {key: tuple(group.config.get(key) for group in groups) for key in keys}
    known = [place for place, group in enumerate(groups) if group.config]
    return {key: values for key, values in rows.items() if len({repr(values[place]) for place in known}) > 1}


def _letter(place: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    name = ""
    place += 1
    while place:
        place, digit = divmod(place - 1, 26)
        name = chr(ord("A") + digit) + name
    return name
