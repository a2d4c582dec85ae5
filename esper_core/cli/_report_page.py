"""A report as one HTML page that needs nothing else: no script, no font, no picture from anywhere."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Final

from esper_core.cli._report_charts import curve, heat_map
from esper_core.cli._report_markup import Markup, element, joined, table
from esper_core.cli._report_style import STYLE
from esper_core.reading.divergences import compared, newest_divergences
from esper_core.reading.glyphs import STOP, VERDICTS
from esper_core.reading.numbers import MISSING, count, duration, mean_kl, plain
from esper_core.reading.sentences import policy_evaluated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper_core.reading.report import Report, ReportedRun

__all__ = ["MARK", "page"]

MARK: Final = "esper report"
"""What the page says made it."""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_POINTS: Final = 400
_ALL_POINTS: Final = 4000
_EVENTS: Final = 60


def page(found: Report) -> str:
    """The page as text."""
    runs = found.runs
    title = runs[0].curves.run_id if len(runs) == 1 else f"{len(runs)} runs"
    points = max(min(_POINTS, _ALL_POINTS // len(runs)), 40)
    sections = [_run(place, item, points) for place, item in enumerate(runs)]
    made = _moment(found.made_ns)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=MARK),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", f"Esper: {title}"),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element("a", "to the runs", href="#content", class_="skip"),
        element("header", element("h1", f"Esper: {title}"), element("p", f"made {made}", class_="quiet")),
        *([_contents(runs)] if len(runs) > 1 else []),
        element("main", *([_overview(found)] if len(runs) > 1 else []), *sections, _config(found), id="content"),
        element("footer", element("p", f"{MARK}; KL in nats, numbers as the runs' journals have them", class_="quiet")),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _contents(runs: Sequence[ReportedRun]) -> Markup:
    links = [element("li", element("a", item.curves.run_id, href=f"#run-{place}")) for place, item in enumerate(runs)]
    return element("nav", element("ol", *links), aria_label="runs")


def _overview(found: Report) -> Markup:
    rows = [
        (
            item.curves.run_id,
            item.group.name,
            item.screen.verdict.label,
            count(item.curves.updates),
            plain(item.curves.last_return, 1),
            mean_kl(item.curves.last_kl),
            str(item.curves.early_stops),
        )
        for item in found.runs
    ]
    heading = ("run", "group", "verdict", "updates", "return", "KL", "stopped early")
    caption = "Return: mean of 100 episodes at the end. KL: the judged one, nats, over the last 10 updates."
    return element(
        "section",
        element("h2", "Side by side", id="overview"),
        table(caption, heading, rows, numbers=True),
        aria_labelledby="overview",
    )


def _run(place: int, item: ReportedRun, points: int) -> Markup:
    curves, limits = item.curves, item.curves.limits
    lines = {"warning": limits.warning, "critical": limits.critical}
    if curves.stop_threshold == limits.critical:
        lines = {"warning": limits.warning, "critical, stop": limits.critical}
    elif curves.stop_threshold is not None:
        lines["stop"] = curves.stop_threshold
    drawn: list[Markup] = []
    if curves.update_ids:
        kl = f"{limits.name}, nats, over updates"
        if curves.stopped:
            kl += f"; {STOP} stopped early"
        drawn = [
            element("h3", limits.name),
            curve(
                kl,
                curves.update_ids,
                curves.kl,
                limits=lines,
                stopped=curves.stopped,
                broken=curves.non_finite,
                points=points,
            ),
            element("h3", "Return"),
            curve("Return over updates", curves.update_ids, curves.returns, limits={}, points=points, digits=1),
            *_evaluations(item, points),
            element("h3", "Heads"),
            heat_map(curves.update_ids, curves.heads, curves.kinds, limits),
        ]
    return element(
        "section",
        element("h2", curves.run_id, id=f"run-{place}"),
        _verdict(item),
        _facts(item),
        *drawn,
        *_divergences(item),
        element("h3", "Events"),
        _events(item),
        element("h3", "Telemetry health"),
        _sinks(item),
        aria_labelledby=f"run-{place}",
    )


def _verdict(item: ReportedRun) -> Markup:
    found = item.screen.verdict
    sign = VERDICTS[found.kind]
    reason = element("span", element("strong", f"{sign.glyph} {found.label}"), f" {found.reason}")
    advice = item.screen.advice
    parts = [element("div", reason)]
    if advice is not None:
        parts.append(element("div", element("span", str(advice))))
    return element("div", *parts, class_=f"verdict {sign.role}")


def _facts(item: ReportedRun) -> Markup:
    plan, curves = item.screen.snapshot.plan, item.curves
    seed = MISSING if curves.seed is None else str(curves.seed)
    facts = [
        f"state {curves.state}",
        f"environment {plan.environment or MISSING}",
        f"seed {seed}",
        *([f"{plan.ranks} ranks"] if plan.ranks > 1 else []),
        f"{count(curves.updates)} updates",
        f"{curves.early_stops} stopped early",
    ]
    if curves.env_steps:
        facts.append(f"{count(curves.env_steps[-1])} steps before the last update")
    return element("p", ", ".join(facts), class_="quiet")


def _evaluations(item: ReportedRun, points: int) -> list[Markup]:
    """How good the policy was when it played without learning; nothing in a run that did not evaluate."""
    found = item.curves.evaluations
    if not found:
        return []
    ids, returns = [one.update_id for one in found], [one.return_mean for one in found]
    drawn = curve("Return of evaluations over updates", ids, returns, limits={}, points=points, digits=1)
    last = element("p", policy_evaluated(found[-1], alone=True))
    return [element("h3", "Evaluations"), last, drawn]


def _divergences(item: ReportedRun) -> list[Markup]:
    """What else the run calls KL; nothing in a run without."""
    found = newest_divergences(item.screen.snapshot)
    if not found:
        return []
    rows = [
        (
            seen.divergence.name,
            compared(seen.divergence),
            mean_kl(seen.divergence.per_decision),
            mean_kl(seen.divergence.per_step),
            str(seen.update_id),
        )
        for seen in found
    ]
    heading = ("name", "what", "per decision", "per step", "at update")
    return [element("h3", "Other divergences"), table("The newest of each, nats; never a level", heading, rows)]


def _events(item: ReportedRun) -> Markup:
    entries = [entry for entry in item.screen.snapshot.events if entry.tone != "info" or entry.source == "run"]
    if not entries:
        return element("p", "Nothing happened that needs a look.", class_="quiet")
    rows = [
        (
            _moment(entry.time_ns).removesuffix(" UTC"),
            "" if entry.update_id is None else str(entry.update_id),
            entry.source,
            entry.tone,
            entry.text,
        )
        for entry in entries[-_EVENTS:]
    ]
    caption = f"The last {len(rows)} notable events, oldest first"
    return table(caption, ("time, UTC", "update", "source", "tone", "what"), rows)


def _sinks(item: ReportedRun) -> Markup:
    if not item.screen.sinks:
        return element("p", "No sink has told what became of its events.", class_="quiet")
    rows = [
        (
            sink.name,
            sink.state.replace("_", " "),
            count(sink.delivered),
            count(sink.lost),
            str(sink.failures),
            duration(sink.lag_s),
            sink.message,
        )
        for sink in item.screen.sinks
    ]
    return table("Sinks", ("sink", "state", "delivered", "lost", "failures", "lag", "message"), rows)


def _config(found: Report) -> Markup:
    groups = found.comparison.groups
    parts = [element("h2", "Configuration", id="config")]
    differing: Mapping[str, tuple[Any, ...]] = found.comparison.differing
    if differing:
        rows = [(key, *map(_value, values)) for key, values in differing.items()]
        parts.append(table("What differs", ("key", *(f"group {group.name}" for group in groups)), rows))
    parts.extend(element("p", f"note: {note}", class_="quiet") for note in found.comparison.notes)
    for group in groups:
        if group.config:
            rows = [(key, _value(value)) for key, value in group.config.items()]
            whole = table(f"Group {group.name}", ("key", "value"), rows)
            parts.append(element("details", element("summary", f"all of group {group.name}"), whole))
    return element("section", joined(parts), aria_labelledby="config")


def _value(value: object) -> str:
    return MISSING if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _moment(time_ns: int) -> str:
    return f"{dt.datetime.fromtimestamp(time_ns // 1_000_000_000, tz=dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
