"""docs/explanation/kl.md: its examples print what it says, and its limits are the code's."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from pathlib import Path

import pytest

from esper_core import kl
from esper_core.config.schema import PPOConfig
from esper_core.health import TUIThresholds

pytestmark = pytest.mark.numeric

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "kl.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n+ *```text\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("index", range(3))
def test_examples_print_what_the_page_says(index: int) -> None:
    assert len(EXAMPLES) == 3
    code, expected = (textwrap.dedent(part) for part in EXAMPLES[index])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), {})  # our own page
    assert printed.getvalue().strip() == expected.strip()


def test_limits_on_the_page_are_the_codes() -> None:
    assert f"(by default {TUIThresholds.KL_WARNING} WARNING, {TUIThresholds.KL_CRITICAL} CRITICAL)" in TEXT
    assert f"The limit is {kl.STOP_FACTOR} \N{MULTIPLICATION SIGN} `target_kl` (default {PPOConfig().target_kl}" in TEXT
    assert f"clamped to ±{kl.LOG_RATIO_LIMIT:.0f}" in TEXT
    assert f"`clamp(planned // 16, 1, {kl.MAX_WINDOW})`" in TEXT


def test_links_of_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (PAGE.parent / target).exists(), target
    for name in re.findall(r"`(tests/[\w/]+\.py)`", TEXT):
        assert (PAGE.parents[2] / name).exists(), name
