"""``esper report`` in a real Chromium: contrast by its own colours, keyboard, print, and the drawing as it should look.

``UPDATE_GOLDENS=1`` writes the screenshots of the drawing anew; look at them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from headless_browser import Picture, opened, picture

from esper_core import monitor
from esper_core.cli.main import main
from esper_core.events import Divergence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headless_browser import Browser

pytestmark = pytest.mark.browser

DRIFT = Path(__file__).parents[2] / "docs" / "examples" / "runs" / "drift"
GOLDENS = Path(__file__).parent / "goldens"
MEDIA = [("screen", "light"), ("screen", "dark"), ("print", "dark")]
# Each visible piece of text with its colour, and the colour of the nearest background that is not transparent.
TEXTS = """
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; node = walker.nextNode();) {
  const owner = node.parentElement, style = getComputedStyle(owner);
  if (!node.textContent.trim() || !owner.checkVisibility() || /^(title|desc|style)$/.test(owner.localName)) continue;
  let ground = owner;
  while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
  const svg = owner.namespaceURI.endsWith('svg');
  found.push([node.textContent.trim().slice(0, 40), svg ? style.fill : style.color,
              ground ? getComputedStyle(ground).backgroundColor : 'rgb(255, 255, 255)']);
}
return found;
"""
# Lines and marks of the drawings: what someone must be able to see to read them.
MARKS = """
return ['.curve', '.limit', '.stop', '.broken'].flatMap(kind => [...document.querySelectorAll(kind)].map(mark => {
  const style = getComputedStyle(mark);
  return [kind, style.stroke === 'none' ? style.fill : style.stroke,
          getComputedStyle(document.body).backgroundColor];
}));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs, the second of a loop that is not ours, with a divergence."""
    folder = tmp_path_factory.mktemp("report")
    with monitor(
        "Toy", heads=("a", "b"), target_kl=0.01, sinks=["journal"], settings={"run": {"dir": str(folder)}}
    ) as run:
        run.ppo_update(kl=[[0.02, 0.01]], divergences=(Divergence(name="kl", per_step=0.1),))
    assert main(["report", str(DRIFT), str(run.path), "-o", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    with opened(900, 700) as found:
        found.show(page.as_uri())
        yield found


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])

    def linear(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_ratio_is_wcag_s() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize(("kind", "scheme"), MEDIA)
def test_text_and_marks_stand_out_by_the_page_s_own_colours(browser: Browser, kind: str, scheme: str) -> None:
    browser.media(kind, scheme=scheme)
    browser.run("for (const item of document.querySelectorAll('details')) item.open = true")
    texts: list[list[str]] = browser.run(TEXTS)
    grounds = {ground for _, _, ground in texts}
    assert len(texts) > 100
    assert grounds == ({"rgb(16, 21, 27)"} if (kind, scheme) == ("screen", "dark") else {"rgb(255, 255, 255)"})
    assert {text: contrast(*pair) for text, *pair in texts if contrast(*pair) < 4.5} == {}
    marks: list[list[str]] = browser.run(MARKS)
    assert {mark for mark, _, _ in marks} >= {".curve", ".limit", ".stop", ".broken"}
    assert [mark for mark, *pair in marks if contrast(*pair) < 3] == []


def test_the_page_is_used_by_keyboard(browser: Browser) -> None:
    browser.media("screen")
    browser.run("for (const item of document.querySelectorAll('details')) item.open = false; window.scrollTo(0, 0)")
    browser.command("POST", "/refresh", {})
    browser.press("\ue004")  # Tab
    here = "const at = document.activeElement; return [at.textContent, at.getBoundingClientRect().left >= 0]"
    assert browser.run(here) == ["to the runs", True]  # the first stop is the skip link, and it is seen
    seen = set()
    for _ in range(40):
        browser.press("\ue004")
        name, ring = browser.run(
            "const at = document.activeElement; return [at.localName, getComputedStyle(at).outlineStyle]"
        )
        seen.add(name)
        if name == "summary":
            break
        assert ring == "solid", name  # what has the focus shows it
    assert seen >= {"a", "div", "summary"}  # links, tables that scroll, details
    browser.press("\ue007")  # Enter
    assert browser.run("return document.activeElement.parentElement.open") is True


def test_print_has_no_navigation_and_no_closed_details(browser: Browser) -> None:
    browser.media("print")
    browser.run("for (const item of document.querySelectorAll('details')) item.open = false")
    shown = "return [...document.querySelectorAll('nav, .skip, details')].some(x => x.checkVisibility())"
    assert browser.run(shown) is False
    width: list[int] = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]


def different(one: Picture, other: Picture) -> float:
    """Share of pixels that differ by more than a fifth in a channel, 0..1."""
    if (one.width, one.height) != (other.width, other.height):
        return 1.0
    count = 0
    for left, right in zip(one.rows, other.rows, strict=True):
        if left != right:
            far = [abs(a - b) > 51 for a, b in zip(left, right, strict=True)]
            count += sum(any(far[at : at + 3]) for at in range(0, len(far), 3))
    return count / (one.width * one.height)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_drawing_looks_as_it_should(browser: Browser, scheme: str) -> None:
    """Fonts differ from machine to machine, so a few pixels may; lines, marks and colours may not."""
    browser.media("screen", scheme=scheme)
    shot = browser.screenshot("figure svg")
    path = GOLDENS / f"report-kl-{scheme}.png"
    if os.environ.get("UPDATE_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(shot)
    assert different(picture(shot), picture(path.read_bytes())) < 0.01


def test_a_drawing_without_its_curve_is_not_the_golden_one(browser: Browser) -> None:
    """The comparison sees what matters."""
    browser.media("screen")
    browser.run("document.querySelector('.curve').style.display = 'none'")
    shot: Any = browser.screenshot("figure svg")
    browser.run("document.querySelector('.curve').style.display = ''")
    assert different(picture(shot), picture((GOLDENS / "report-kl-light.png").read_bytes())) > 0.01
