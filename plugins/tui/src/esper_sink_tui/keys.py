"""The table of all keys of Sanctum: the app's bindings, the help screen and the reference page are made from it."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["GLOSSARY", "KEYS", "PLOT_KEYS", "Key", "help_markdown", "help_text", "shown"]


class Key(NamedTuple):
    """One key.

    Attributes:
        key: as Textual names it; several separated by commas.
        action: the app's action.
        text: what it does, for the help.
        group: heading in the help.
        footer: one word for the footer; empty leaves the key out of the footer.
        shown: how the key is written; the key itself when empty.
    """

    key: str
    action: str
    text: str
    group: str
    footer: str = ""
    shown: str = ""


KEYS: Final = (
    Key("q", "detach", "detach: training goes on", "Leave and help", footer="detach"),
    Key("question_mark", "help", "this help", "Leave and help", footer="help", shown="?"),
    Key("x", "stop_training", "stop the training, after a question", "Leave and help"),
    Key("f", "freeze", "freeze or thaw the view", "Look closer", footer="freeze"),
    Key("left", "step(-1)", "one update back; → one on", "Look closer", footer="step", shown="←/→"),
    Key("right", "step(1)", "one update on", "Look closer", shown="→"),
    Key("shift+left", "step(-10)", "ten updates back", "Look closer"),
    Key("shift+right", "step(10)", "ten updates on", "Look closer"),
    Key("home", "ends(True)", "first update", "Look closer"),
    Key("end", "ends(False)", "last update", "Look closer"),
    Key("z", "zoom", "zoom the panel in focus, or back", "Look closer", footer="zoom"),
    Key("tab", "app.focus_next", "next panel", "Look closer"),
    Key("d", "head_view", "heads: KL or entropy and clip", "Look closer"),
    Key("h", "history", "KL, return and any metric over the whole run", "Look closer", footer="history"),
    Key("enter", "events", "the last 200 events; keys and wheel scroll them", "Look closer"),
    Key("l", "level", "events: all or notable only", "Look closer"),
    Key("a", "alerts", "how the verdict changed", "Look closer", footer="alerts"),
    Key("i", "overview", "the run: configuration, command, files, versions", "Look closer"),
    Key("o", "log", "the end of trainer.log, followed", "Look closer"),
    Key("r,slash", "runs", "list and filter runs", "Runs", footer="runs", shown="r or /"),
    Key("left_square_bracket", "neighbour(-1)", "newer run", "Runs", shown="["),
    Key("right_square_bracket", "neighbour(1)", "older run", "Runs", shown="]"),
    Key("m", "mark", "mark the run for comparing", "Runs"),
    Key("v", "compare", "compare the marked runs", "Runs", footer="compare"),
    Key("w", "differences", "what differs in configuration between the marked runs", "Runs"),
    Key("c", "copy", "copy the panel in focus as text", "Take away", footer="copy"),
    Key("e", "export", "export a series as CSV, the screen as SVG", "Take away", footer="export"),
    Key("t", "next_theme", "next theme", "Appearance"),
    Key("ctrl+p", "command_palette", "command palette", "Appearance"),
    Key("escape", "retreat", "close, thaw, zoom out", "Appearance"),
)
PLOT_KEYS: Final = (
    Key("escape,q,h,v", "dismiss", "back", "Plots of whole runs", footer="back", shown="esc"),
    Key("question_mark", "app.help", "this help", "Plots of whole runs", footer="help", shown="?"),
    Key("p", "pick", "choose the metric below the KL", "Plots of whole runs", footer="metric"),
    Key("y", "scale", "y axis: limits, automatic, logarithmic", "Plots of whole runs", footer="scale"),
    Key("x", "unit", "x axis: updates, environment steps, time", "Plots of whole runs", footer="axis"),
    Key("s", "smooth", "smoothing: none, 0.6, 0.9, 0.97", "Plots of whole runs", footer="smooth"),
    Key("k", "heads", "KL of each head as a map, or the metric again", "Plots of whole runs", footer="heads"),
    Key("left", "move(-1)", "cursor back, → on; a click sets it", "Plots of whole runs", footer="value", shown="←/→"),
    Key("right", "move(1)", "cursor on", "Plots of whole runs", shown="→"),
    Key("shift+left", "move(-10)", "cursor ten places back", "Plots of whole runs"),
    Key("shift+right", "move(10)", "cursor ten places on", "Plots of whole runs"),
    Key("home", "edge(True)", "cursor at the first update", "Plots of whole runs"),
    Key("end", "edge(False)", "cursor at the last update", "Plots of whole runs"),
    Key("g", "group", "one line a run, or mean and band of each experiment", "Plots of whole runs", footer="group"),
    Key("r", "whole", "whole run again, without cursor", "Plots of whole runs", footer="whole"),
    Key("plus,minus", "", "zoom in, zoom out; the wheel too, dragging moves", "Plots of whole runs", shown="+ -"),
)
GLOSSARY: Final = (
    ("● ok", "below the warning limit"),
    ("▲ warn", "at or above the warning limit (at or below, for entropy and explained variance)"),
    ("✖ crit", "at or above the critical limit"),
    ("\u00d7 NaN/Inf", "not a number: worse than critical"),
    ("◌ warm-up", "the first 3 updates: a warning is muted, and a value function that explains nothing yet"),
    ("… wait", "nothing to judge yet"),
    ("not reported", "the training loop does not measure this number"),
    ("not defined", "the entropy of a density has no largest value to compare it with"),
    ("? stale", "no sign of life from the trainer, or no progress (stalled)"),
    ("‖ frozen", "the view does not change; reading continues"),
    ("▴", "this update stopped early"),
    ("▲ ▼ in a curve", "above or below the range that is drawn"),
    ("\u00d7 in a curve", "NaN or Inf: the line is broken there"),
    ("┊ in a curve", "the run was resumed here"),
    ("◆ in a curve", "an evaluation: mean return without learning"),
    ("● most", "the head with the largest share of a KL that is calm"),
    ("· idle", "the head decided nothing in this update"),
    ("… was ok", "of a sink: so the trainer told before it was gone"),
    ("— lost", "not known: the update was not finite"),
    ("↑ → ↓", "the direction of the number, not a judgement; blank while it jumps without one"),
    ("· in a sparkline", "not measured in that update"),
    ("non-finite only", "the row has no limit: only NaN and Inf are told"),
    ("— as a value", "not measured: not the same as 0"),
    ("sparkline of KL", "fixed range 0 to 0.045, one and a half times critical"),
)


def _groups() -> dict[str, list[Key]]:
    groups: dict[str, list[Key]] = {}
    for key in (*KEYS, *PLOT_KEYS):
        groups.setdefault(key.group, []).append(key)
    return groups


def shown(key: Key) -> str:
    """How a key is written in the help and on the page."""
    return key.shown or key.key


def help_text() -> str:
    """The text of the help screen."""
    lines = []
    for group, keys in _groups().items():
        lines.append(group.upper())
        lines.extend(f"  {shown(key):<12} {key.text}" for key in keys)
        lines.append("")
    lines.append("SIGNS")
    lines.extend(f"  {sign:<18} {text}" for sign, text in GLOSSARY)
    return "\n".join(lines)


def help_markdown() -> str:
    """The tables of docs/reference/sanctum-keys.md."""
    lines = []
    for group, keys in _groups().items():
        lines += [f"## {group}", "", "| key | what it does |", "|---|---|"]
        lines += [f"| `{shown(key)}` | {key.text} |" for key in keys]
        lines.append("")
    lines += ["## Signs", "", "| sign | meaning |", "|---|---|"]
    lines += [f"| {sign} | {text} |" for sign, text in GLOSSARY]
    return "\n".join(lines) + "\n"
