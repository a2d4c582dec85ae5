"""Numbers of a configuration as text."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.reading.settings import setting_text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05 * 1.5, "0.075"), (3e-4, "0.0003"), (1e-8, "1e-08"), ([64, 64], "[64, 64]"), (True, "true"), ("a", '"a"')],
)
def test_a_value_is_written_as_a_person_wrote_it(value: object, text: str) -> None:
    assert setting_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_true_to_eleven_figures(value: float) -> None:
    assert math.isclose(json.loads(setting_text(value)), value, rel_tol=1e-11, abs_tol=0.0)
