"""Texts from outside: nothing that is shown acts on a terminal, and what a person can read stays as it is."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit import runner
from godwit.errors import GodwitError
from godwit.plaintext import LONGEST, as_json, lines, masked, one_line, shortened

texts = st.text(st.characters(), max_size=200)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def acting(text: str, kept: str = "") -> list[str]:
    """Return the characters that act instead of showing."""
    acts = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return [one for one in text if unicodedata.category(one) in acts and one not in kept]


@given(texts)
def test_nothing_that_acts_is_left(text: str) -> None:
    assert not acting(lines(text), "\n\t")
    assert not acting(one_line(text))
    lines(text).encode()


@given(texts)
def test_what_a_person_can_read_stays(text: str) -> None:
    plain = "".join(one for one in text if not acting(one))
    assert lines(plain) == one_line(plain) == plain


@given(values)
def test_json_holds_nothing_that_acts_and_means_the_same(value: object) -> None:
    text = as_json(value)
    assert not acting(text)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;mine\x07", r"\x1b]0;mine\x07"),
        ("a\u202eb", r"a\u202eb"),
        ("\udc9b", r"\udc9b"),
        ("one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        ("naïve ・ Größe 200\u202fms →", "naïve ・ Größe 200\u202fms →"),
    ],
)
def test_how_it_is_shown(text: str, shown: str) -> None:
    assert lines(text) == shown


def test_lines_become_visible_where_there_is_but_one() -> None:
    assert one_line("one\r\ntwo") == r"one\ntwo"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert one_line("x" * (1 << 20)) == shortened("x" * LONGEST + "y") == "x" * (LONGEST - 1) + "…"
    assert len(one_line("\x1b" * (1 << 20))) == LONGEST


def test_an_error_keeps_no_more_than_is_worth_it() -> None:
    error = GodwitError("x" * (1 << 20), remedy="y" * (1 << 20))
    assert len(error.message) == len(error.remedy) == len(str(error)) == LONGEST


def test_a_log_has_one_line_for_each_thing_that_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    runner._say("QEMU said\n2026-01-01T00:00:00 done: web1 is saved\x1b[2J")
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert not acting(said, "\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-object secret,id=s0,data=hunter2,format=raw x", "-object secret,id=s0,data=***,format=raw x"),
        ("-object qom-type=secret,data=hun,,ter2", "-object qom-type=secret,data=***"),
        ('{"qom-type":"secret","id":"a","data":"hunter2"}', '{"qom-type":"secret","id":"a","data":"***"}'),
        ("-spice port=1,password=hunter2", "-spice port=1,password=***"),
        ("file=rbd:p/i:id=a:key=hunter2:x", "file=rbd:p/i:id=a:key=***"),
        ("https://u:hunter2@h/x", "https://u:***@h/x"),
        ("ssh://root@h:22", "ssh://root@h:22"),
        ("-acpitable sig=x,data=/a.bin", "-acpitable sig=x,data=/a.bin"),
        ("-vnc :1,password=on", "-vnc :1,password=***"),
    ],
)
def test_secrets_of_a_command_line_are_never_shown(text: str, shown: str) -> None:
    assert masked(text) == lines(text) == one_line(text) == shown
    assert json.loads(as_json([text])) == [shown]
    assert GodwitError(text, remedy=text).message == GodwitError("x", remedy=text).remedy == shown


@given(texts)
def test_hiding_secrets_keeps_json_json(text: str) -> None:
    assert isinstance(json.loads(as_json([f"secret,data={text}", text])), list)
