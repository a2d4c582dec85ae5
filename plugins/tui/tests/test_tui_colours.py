"""Warning and critical can be told apart by everyone, and every state can be read, in both themes."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest

from esper_sink_tui.screens.drawing import COLOURS, COLOURS_ON_LIGHT
from esper_sink_tui.theme import DARK, LIGHT

if TYPE_CHECKING:
    from textual.theme import Theme

# Machado, Oliveira and Fernandes (2009), severity 1, in linear RGB: nobody, protanopia, deuteranopia, tritanopia.
SIGHTS = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
)


def linear(colour: str) -> list[float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def luminance(colour: str) -> float:
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, sight: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    seen = [
        min(max(sum(weight * part for weight, part in zip(row, linear(colour), strict=True)), 0.0), 1.0)
        for row in sight
    ]
    rows = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.072175), (0.0193339, 0.119192, 0.9503041))
    white = (0.95047, 1.0, 1.08883)
    x, y, z = (
        value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116
        for value in (
            sum(weight * part for weight, part in zip(row, seen, strict=True)) / unit
            for row, unit in zip(rows, white, strict=True)
        )
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
def test_states_are_told_apart_and_read_by_everyone(theme: Theme) -> None:
    """Kind 27: warning and critical looked alike."""
    roles = {name: theme.variables[f"role-{name}"] for name in ("ok", "warn", "crit", "bad")}
    for sight in SIGHTS:
        seen = {name: lab(colour, sight) for name, colour in roles.items()}
        assert math.dist(seen["warn"], seen["crit"]) > 30
        assert min(math.dist(seen[one], seen[other]) for one, other in itertools.combinations(seen, 2)) > 12
    assert theme.background is not None
    assert all(contrast(colour, theme.background) > 4.5 for colour in roles.values())


@pytest.mark.parametrize(("theme", "colours"), [(DARK, COLOURS), (LIGHT, COLOURS_ON_LIGHT)], ids=["dark", "light"])
def test_every_run_of_a_comparison_is_seen_on_its_ground(theme: Theme, colours: tuple[str, ...]) -> None:
    """The fourth run was yellow on white."""
    assert theme.background is not None
    assert len(set(colours)) == len(COLOURS)
    assert min(contrast(colour, theme.background) for colour in colours) > 4.5
