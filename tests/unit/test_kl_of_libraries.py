"""What other libraries call KL: the page holds the benchmark's tables, and the formulas are the libraries' own."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from kl_formulas import exact, k3, policy_kl, truth
from kl_libraries import LIBRARIES
from kl_of_libraries import formulas, measured
from kl_record import Policy, record
from kl_statements import own_value
from present import present

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "what-others-call-kl.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_page_has_the_measured_numbers() -> None:
    assert formulas() in PAGE
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d\.\d{5}) \| \d+\.\d\d \|$", PAGE, flags=re.MULTILINE))
    numbers = measured(record())
    assert list(rows) == list(numbers)
    for name, value in numbers.items():
        assert float(rows[name]) == pytest.approx(value, abs=6e-6), name


def test_what_the_page_says_of_four_seeds() -> None:
    found = [(measured(record(seed)), truth(record(seed))) for seed in range(4)]

    def span(ratios: list[float], digits: int) -> str:
        return f"{min(ratios):.{digits}f} to {max(ratios):.{digits}f}"

    k1_span = span([numbers["torchrl"] / true for numbers, true in found], 2)
    k3_span = span([numbers["CleanRL"] / true for numbers, true in found], 2)
    small = span([true / numbers["rl_games, continuous actions"] for numbers, true in found], 0)
    words = re.sub(r"\s+", " ", PAGE)
    assert f"it read {k1_span} times the truth, k3 on the same minibatch {k3_span} times" in words
    assert f"over the four seeds {small} times too small" in words


def test_each_formula_is_the_own_code_of_the_installed_library() -> None:
    """The script's docstring says how to have them all; of those that are large, none is needed here."""
    update, seen = record(), set()
    for library in LIBRARIES:
        theirs = own_value(library, update)
        if theirs is not None:
            seen.add(library.distribution)
            assert theirs == pytest.approx(present(library.own).ours(update), rel=1e-12), library.name
    assert {"stable-baselines3", "torchrl"} <= seen


def test_the_closed_form_is_that_of_gaussians() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    old, new = Policy(0 * one, one), Policy(one, 2 * one)
    assert float(exact(old, new)) == pytest.approx(math.log(2) + (1 + 1) / 8 - 0.5)
    assert float(policy_kl(old, new)) == pytest.approx(math.log(2) + (1 + 1) / 8 - 0.5, abs=1e-4)
    assert float(k3(torch.zeros(1))) == 0.0
