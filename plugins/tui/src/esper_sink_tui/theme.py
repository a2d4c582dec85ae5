"""Sanctum's themes. Colours began as Okabe and Ito's: never red against green.

Their orange and vermillion look alike to many: warning and critical are kept apart under each colour blindness, which a
test simulates.

Every state also has a glyph and a word, so that a theme may have no colours: ``esper-mono`` has none, for NO_COLOR.
"""

from __future__ import annotations

from typing import Final, get_args

from textual.theme import BUILTIN_THEMES, Theme

from esper_core.reading.glyphs import Role

__all__ = ["DARK", "LIGHT", "MONO", "ROLE_CLASSES", "ROLE_CSS", "THEMES", "rich_colour", "role_class", "role_defaults"]

_DARK_ROLES: Final = {
    "role-dim": "#8a94a0",
    "role-title": "#c8d3de",
    "role-frame": "#4a5563",
    "role-ok": "#8fc7ec",
    "role-info": "#56b4e9",
    "role-warn": "#e69f00",
    "role-crit": "#f2456b",
    "role-bad": "#d98fb9",
    "role-stale": "#f0e442",
    "role-stop": "#f0e442",
    "role-frozen": "#f0e442",
    "role-cursor": "#56b4e9",
}
_LIGHT_ROLES: Final = {
    "role-dim": "#5a6470",
    "role-title": "#1f2933",
    "role-frame": "#a0a8b2",
    "role-ok": "#00507e",
    "role-info": "#0072b2",
    "role-warn": "#946400",
    "role-crit": "#9c0038",
    "role-bad": "#6a1fb0",
    "role-stale": "#6b6400",
    "role-stop": "#6b6400",
    "role-frozen": "#6b6400",
    "role-cursor": "#0072b2",
}
_FOOTER: Final = (
    "footer-background",
    "footer-foreground",
    "footer-key-background",
    "footer-key-foreground",
    "footer-description-foreground",
    "footer-description-background",
    "footer-item-background",
)
_MONO_ROLES: Final = dict.fromkeys(_DARK_ROLES, "ansi_default")

DARK: Final = Theme(
    name="esper",
    primary="#56b4e9",
    secondary="#8a94a0",
    warning="#e69f00",
    error="#f2456b",
    success="#56b4e9",
    accent="#cc79a7",
    foreground="#dbe3ea",
    background="#10151b",
    surface="#151b22",
    panel="#1c242d",
    dark=True,
    variables=_DARK_ROLES,
)
LIGHT: Final = Theme(
    name="esper-light",
    primary="#0072b2",
    secondary="#5a6470",
    warning="#946400",
    error="#9c0038",
    success="#0072b2",
    accent="#8c3a6b",
    foreground="#10151b",
    background="#fbfcfd",
    surface="#f2f4f6",
    panel="#e6e9ed",
    dark=False,
    variables=_LIGHT_ROLES,
)
MONO: Final = Theme(
    name="esper-mono",
    ansi=True,
    primary="ansi_default",
    secondary="ansi_default",
    warning="ansi_default",
    error="ansi_default",
    success="ansi_default",
    accent="ansi_default",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    variables={
        **dict.fromkeys((*BUILTIN_THEMES["ansi-dark"].variables, *_FOOTER), "ansi_default"),
        "block-cursor-text-style": "reverse",
        "input-cursor-text-style": "reverse",
        **_MONO_ROLES,
    },
)
THEMES: Final = (DARK, LIGHT, MONO)
ROLE_CLASSES: Final = frozenset(f"role--{role}" for role in get_args(Role) if role)
_TEXT_STYLES: Final = {
    "title": "bold",
    "warn": "bold",
    "crit": "bold",
    "bad": "bold",
    "stale": "bold",
    "stop": "bold",
    "frozen": "bold reverse",
    "cursor": "bold",
}


def _text_style(role: Role) -> str:
    """A badge is its colour reversed, so that every theme has it, those without colours too."""
    return "bold reverse" if role.startswith("on-") else _TEXT_STYLES.get(role, "none")


ROLE_CSS: Final = "\n".join(
    f"TextPanel > .role--{role} {{ color: $role-{role.removeprefix('on-')}; text-style: {_text_style(role)}; }}"
    for role in get_args(Role)
    if role
)


def role_defaults(*, dark: bool) -> dict[str, str]:
    """Role colours for Textual's own themes."""
    return _DARK_ROLES if dark else _LIGHT_ROLES


def role_class(role: Role) -> str:
    """The component class of a role."""
    return f"role--{role}"


def rich_colour(colour: str) -> str:
    """A theme's colour in Rich's notation, which the plot's canvas requires."""
    return colour.removeprefix("ansi_")
