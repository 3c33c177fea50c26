from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.qemu import options, properties
from godwit.qemu.options import FLAGS, VALUED, CommandLineError, Option
from godwit.qemu.properties import Pair, Properties

WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)


def option_values() -> st.SearchStrategy[Option]:
    images = WORDS.filter(lambda word: not word.startswith("-")).map(lambda word: Option("", word))
    dashes = st.sampled_from([1, 2])
    flags = st.builds(lambda name, dash: Option(name, None, dash), st.sampled_from(sorted(FLAGS)), dashes)
    valued = st.builds(Option, st.sampled_from(sorted(VALUED)), WORDS, dashes)
    return images | flags | valued


@given(st.lists(option_values()))
def test_what_was_printed_is_read_back(found: list[Option]) -> None:
    assert options.parse(options.render(found)) == tuple(found)


@given(st.lists(st.tuples(NAMES, WORDS), min_size=1))
def test_a_list_that_was_printed_is_read_back(pairs: list[tuple[str, str]]) -> None:
    made = Properties(tuple(Pair(key, value) for key, value in pairs))
    assert properties.parse(str(made)) == made


@given(st.text("ab=,", max_size=12))
def test_reading_and_printing_settle(text: str) -> None:
    once = str(properties.parse(text, "driver"))
    assert str(properties.parse(once, "driver")) == once


@given(st.text("a,\\x/ ", min_size=1, max_size=12), NAMES, WORDS)
def test_a_first_value_may_stand_alone(first: str, key: str, value: str) -> None:
    made = Properties((Pair("file", first, implied=True), Pair(key, value)))
    assert properties.parse(str(made), "file") == made


@given(
    st.dictionaries(
        NAMES.filter(lambda name: "." not in name), st.none() | st.booleans() | st.integers() | WORDS, max_size=4
    )
)
def test_json_is_read_back(document: dict[str, object]) -> None:
    assert properties.parse(str(Properties(document=document))).document == document


def test_no_option_both_takes_a_value_and_does_not() -> None:
    assert not FLAGS & VALUED


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-m", "lacks its value"),
        ("-zork 3", "no option of QEMU"),
        ("- x", "no option of QEMU"),
        ("---m 3", "no option"),
    ],
)
def test_what_qemu_would_not_take_is_refused(line: str, message: str) -> None:
    with pytest.raises(CommandLineError, match=message):
        options.parse(shlex.split(line))


def test_the_value_of_an_option_may_look_like_an_option() -> None:
    assert options.parse(["-append", "-v quiet", "--S", "disk.img"]) == (
        Option("append", "-v quiet"),
        Option("S", None, 2),
        Option("", "disk.img"),
    )


def test_commas_are_doubled_in_values() -> None:
    pairs = properties.parse("file=a,,b.img,if=virtio,readonly", "file")
    assert dict(pairs.items()) == {"file": "a,b.img", "if": "virtio", "readonly": None}
    assert str(pairs.put("file", "/x,y")) == "file=/x,,y,if=virtio,readonly"
    assert str(pairs.without("if").put("id", "d")) == "file=a,,b.img,readonly,id=d"


def test_json_members_have_dotted_names() -> None:
    pairs = properties.parse('{"driver":"qcow2","file":{"driver":"file","filename":"a"},"read-only":true}')
    assert pairs.get("file.filename") == "a"
    assert pairs.get("read-only") == "on"
    assert pairs.put("file.filename", "/b").document == {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": "/b"},
        "read-only": True,
    }


def test_broken_json_is_refused() -> None:
    with pytest.raises(CommandLineError, match="is no JSON"):
        properties.parse('{"driver":')
