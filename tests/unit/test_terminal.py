"""Text from outside in one line or several: nothing in it acts on the terminal, and nothing readable is lost."""

from __future__ import annotations

import json
import logging
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.cli._output import note, note_text, own_streams, stream_error
from esper_core.host.process.logs import log_to
from esper_core.host.session import _print_notice
from esper_core.runs.folder import Folder
from esper_core.terminal import escaped, one_line, printable

if TYPE_CHECKING:
    from pathlib import Path

ANY = st.text(st.characters(), max_size=60)
"""Lone surrogates, by which Python holds a file name's bytes, included."""


@given(ANY)
def test_one_line_is_one_printable_line(text: str) -> None:
    assert one_line(text).isprintable()


@given(ANY)
def test_a_printable_text_keeps_its_lines_and_nothing_else_that_does_not_print(text: str) -> None:
    shown = printable(text)
    assert all(sign.isprintable() or sign == "\n" for sign in shown)
    assert shown.count("\n") == text.replace("\r\n", "\n").count("\n")


@given(ANY)
def test_what_prints_is_left_as_it_is(text: str) -> None:
    plain = "".join(sign for sign in text if sign.isprintable())
    assert one_line(plain) == printable(plain) == plain


@given(ANY)
def test_filtering_twice_changes_nothing(text: str) -> None:
    assert one_line(one_line(text)) == one_line(text)
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  two  spaces", "  two  spaces"),
        ("a\nb\r\nc\td\u2028e\x85f", "a b c d e f"),
        ("\x1b]0;t\x07", r"\u001b]0;t\u0007"),
        ("\x9b2J", r"\u009b2J"),
        ("a\u202eb\u2066c\u200bd\ufeff", r"a\u202eb\u2066c\u200bd\ufeff"),
        ("caf\udce9", r"caf\xe9"),
        ("10\u00a0000\u3000x", "10 000 x"),
        ("\U000e0041", r"\U000e0041"),
        ("λ ● 漢 😀", "λ ● 漢 😀"),
    ],
)
def test_signs_that_act_are_shown_instead(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(st.characters(min_codepoint=0, max_codepoint=0xD7FF))
def test_an_escape_in_a_string_reads_as_its_sign(sign: str) -> None:
    assert json.loads(f'"{escaped(sign)}"') == sign
    assert tomllib.loads(f'v = "{escaped(sign)}"')["v"] == sign


def test_a_message_is_given_up_where_stderr_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment or a sink may put anything in its place; what the message is about goes on."""

    class Broken:
        def write(self, text: str) -> int:
            raise RuntimeError(text)

        flush = None

    for stream in (Broken(), None, object()):
        monkeypatch.setattr(sys, "stderr", stream)
        note("esper: a line")
        note_text("two\nlines")
        _print_notice("a notice")


def test_the_log_file_is_fit_for_the_terminal_that_shows_it(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder, log_to(folder):
        error = ValueError("\x1b]0;title\x07 raised")
        logging.getLogger("esper.test").error("said \x1b[31mred\u202e", exc_info=error)
    text = (tmp_path / "trainer.log").read_text()
    assert "said \\u001b[31mred\\u202e\n" in text
    assert text.endswith("ValueError: \\u001b]0;title\\u0007 raised\n")
    assert text.replace("\n", "").isprintable()


def test_a_stream_that_an_environment_replaced_is_put_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python flushes what stands there when the process ends, and exits with 120 when that raises."""
    with (tmp_path / "err").open("w", encoding="utf-8") as before:
        monkeypatch.setattr(sys, "stderr", before)
        with own_streams():
            assert sys.stderr is not before
            stranger: Any = object()
            sys.stderr = stranger  # what an environment does
            assert stream_error(sys.stderr) is None
        assert sys.stderr is before
