"""``esper report``: one page that needs nothing else, whatever the runs are called and whatever they measured."""

from __future__ import annotations

import html
import math
import re
import shutil
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from esper_core import monitor, open_run
from esper_core.cli._report_charts import curve
from esper_core.cli._report_markup import element
from esper_core.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e"


def recorded(folder: Path, *, seed: int = 0, target_kl: float = 0.02, kls: tuple[float, ...] = (0.01, 0.5)) -> str:
    with monitor(
        HOSTILE,
        name=f"seed{seed}",
        seed=seed,
        target_kl=target_kl,
        heads=("a<b>",),
        sinks=["journal"],
        settings={"run": {"dir": str(folder)}},
    ) as run:
        for step, kl in enumerate(kls, 1):
            run.episode(float(step))
            run.ppo_update(kl=[kl], env_steps=100 * step)
    assert run.path is not None
    return str(run.path)


class Page(HTMLParser):
    """Elements of a page: what is open at the end, what is used, and what lies outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)
        self.outside += [
            f"{key}={value}" for key, value in attrs if key in {"src", "href"} and not (value or "").startswith("#")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def written(tmp_path: Path, *runs: str) -> str:
    target = tmp_path / "page.html"
    assert main(["report", *runs, "-o", str(target)]) == 0
    return target.read_text(encoding="utf-8")


def test_a_page_is_well_formed_and_brings_everything_itself(tmp_path: Path) -> None:
    text = written(tmp_path, recorded(tmp_path), recorded(tmp_path, seed=1, target_kl=0.05))
    page = Page(text)
    assert page.open == []
    assert page.outside == []
    assert not {"script", "link", "img", "iframe"} & set(page.seen)
    assert {"main", "nav", "header", "footer", "caption", "figure", "desc"} <= set(page.seen)
    assert "ppo.target_kl" in text


def test_names_from_outside_are_text(tmp_path: Path) -> None:
    text = written(tmp_path, recorded(tmp_path))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "a&lt;b&gt;" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\ud800" not in element("p", "\ud800")
    assert 'title="&quot;"' in element("p", title='"')


@pytest.mark.parametrize("kls", [(), (math.nan, math.inf, 0.01), (0.0, 0.0)])
def test_any_numbers_make_a_page(tmp_path: Path, kls: tuple[float, ...]) -> None:
    text = written(tmp_path, recorded(tmp_path, kls=kls))
    assert Page(text).open == []
    heights = [value for data in re.findall(r' d="([^"]*)"', text) for value in re.findall(r"[a-z]+", data)]
    assert not {"nan", "inf"} & set(heights)


def test_a_run_without_a_journal_has_its_verdict_and_says_why(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    shutil.rmtree(f"{run}/telemetry")
    text = written(tmp_path, run)
    assert Page(text).open == []
    assert open_run(run).verdict().reason in html.unescape(text)


def test_a_hundred_thousand_updates_stay_small_and_keep_their_peak() -> None:
    ids = range(1, 100_001)
    values = [0.9 if update == 54_321 else 0.01 for update in ids]
    drawn = curve("KL", ids, values, limits={"critical": 0.03}, stopped=list(ids)[::2])
    assert len(drawn) < 100_000
    assert "0.9000" in drawn
    assert ">54321<" in drawn


def test_without_o_no_foreign_page_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["report", run]) == 0
    assert main(["report", run]) == 0
    (tmp_path / "report.html").write_text("mine", encoding="utf-8")
    assert main(["report", run]) == 64
    assert "name the file with -o" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"
