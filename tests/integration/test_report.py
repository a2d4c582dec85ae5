"""``esper report``: one page that needs nothing else, whatever the runs are called and whatever they measured."""

from __future__ import annotations

import html
import math
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from esper_core import monitor, open_run, train
from esper_core.cli._report_charts import curve
from esper_core.cli._report_markup import element
from esper_core.cli.main import main
from esper_core.events import PolicyEvaluated
from esper_core.reading.series import extremes

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


def test_a_run_that_evaluated_has_a_curve_of_it_and_says_the_newest_and_the_best(tmp_path: Path) -> None:
    run = train(
        env="CartPole-v1",
        preset="none",
        updates=2,
        sinks=["journal"],
        ppo={"rollout_steps": 8, "epochs": 1},
        run={"dir": str(tmp_path), "eval_every": 1, "eval_episodes": 2},
        no_config=True,
    )
    played = [event.payload for event in run.events() if isinstance(event.payload, PolicyEvaluated)]
    text = written(tmp_path, str(run.path))
    assert Page(text).open == []
    assert f"evaluation after update 2: return {played[-1].return_mean:.1f}" in html.unescape(text)
    table = text.partition("Return of evaluations over updates as a table")[2].partition("</table>")[0]
    assert [f"{one.return_mean:.1f}" in table for one in played] == [True, True]
    assert "Evaluations" not in written(tmp_path / "runs2", recorded(tmp_path / "runs2"))


def test_a_run_without_a_journal_has_its_verdict_and_says_why(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    shutil.rmtree(f"{run}/telemetry")
    text = written(tmp_path, run)
    assert Page(text).open == []
    assert open_run(run).verdict().reason in html.unescape(text)


def test_a_hundred_thousand_updates_stay_small_and_keep_peak_and_trough() -> None:
    ids = range(1, 100_001)
    values = [{54_321: 0.9, 77_777: -0.5}.get(update, 0.01) for update in ids]
    drawn = curve("KL", ids, values, limits={"critical": 0.03}, stopped=list(ids)[::2])
    assert len(drawn) < 100_000
    text = html.unescape(re.sub(r"<[^>]+>", " ", drawn))
    assert "From -0.5000 to 0.9000" in text
    assert re.search(r"54001 to 55000 +0.0100 +0.9000 +500 ", text)
    assert re.search(r"77001 to 78000 +-0.5000 +0.0100 +500 ", text)
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", re.findall(r' d="(M[^"]*h\.1L[^"]*)"', drawn)[0])]
    assert len(heights) <= 400
    assert heights.count(max(heights)) == heights.count(min(heights)) == 1


def test_joined_updates_keep_their_extremes_in_order() -> None:
    found = extremes(range(1, 8), [math.nan, 3.0, 1.0, 2.0, 2.0, math.nan, math.nan], 3)
    assert [group.points for group in found] == [((2, 3.0), (3, 1.0)), ((4, 2.0),), ((7, found[2].low[1]),)]
    assert math.isnan(found[2].low[1])
    assert extremes([], [], 3) == []
    assert [group.low for group in extremes([5, 9], [1.0, math.inf], 9)] == [(5, 1.0), (9, math.inf)]


def test_labels_of_limits_close_to_each_other_do_not_overlap() -> None:
    drawn = curve("KL", [1, 2], [0.1, 0.2], limits={"warning": 0.030, "critical": 0.0301, "stop": 0.0302})
    places = sorted(float(y) for y in re.findall(r'y="([\d.]+)" class="label">(?:warning|critical|stop)', drawn))
    assert len(places) == 3
    assert min(after - before for before, after in pairwise(places)) >= 12


def test_the_label_of_a_huge_return_has_room() -> None:
    drawn = curve("Return", [1, 2], [0.0, -3.33e299], limits={})
    assert drawn.count('textLength="56" lengthAdjust="spacingAndGlyphs"') == 2
    assert "textLength" not in curve("Return", [1, 2], [0.0, 999.0], limits={})


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


def test_a_page_and_rows_go_to_stdout_by_the_usual_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert main(["report", run, "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
    assert main(["export", run, "-o", "-"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert not (tmp_path / "-").exists()
