"""How a line is read. What is wrong is said in the words that a real QEMU 10.0 was seen to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.console.arguments import (
    BadArgumentsError,
    Value,
    parse_arguments,
    parse_size,
    quoted,
    split_name,
)
from godwit.console.commands import MIGRATE, SET_DOWNTIME, SET_SPEED, Command

MIB = 1 << 20
EXTRANEOUS = "{}: extraneous characters at the end of line"
GOOD: list[tuple[Command, str, dict[str, Value]]] = [
    (MIGRATE, " tcp:h:6666", {"uri": "tcp:h:6666"}),
    (MIGRATE, " -d tcp:h:6666", {"detach": True, "uri": "tcp:h:6666"}),
    (MIGRATE, "  -b   tcp:h:6666  ", {"blk": True, "uri": "tcp:h:6666"}),
    (MIGRATE, " -d -i tcp:h:6666", {"detach": True, "inc": True, "uri": "tcp:h:6666"}),
    (MIGRATE, " -d -b -i -r x", {"detach": True, "blk": True, "inc": True, "resume": True, "uri": "x"}),
    (MIGRATE, ' "exec:gzip -c > \\"/a b\\""', {"uri": 'exec:gzip -c > "/a b"'}),
    (MIGRATE, ' "a\\\\b"', {"uri": "a\\b"}),
    (MIGRATE, "/d", {"uri": "/d"}),
    (SET_SPEED, " 3", {"value": 3 * MIB}),
    (SET_SPEED, " 3m", {"value": 3 * MIB}),
    (SET_SPEED, " 100K", {"value": 100 << 10}),
    (SET_SPEED, " 7B", {"value": 7}),
    (SET_SPEED, " 2G", {"value": 2 << 30}),
    (SET_SPEED, " 1t", {"value": 1 << 40}),
    (SET_SPEED, " 0", {"value": 0}),
    (SET_SPEED, " 1.5G", {"value": 3 << 29}),
    (SET_SPEED, " .5", {"value": MIB // 2}),
    (SET_SPEED, " 5.", {"value": 5 * MIB}),
    (SET_SPEED, " +5", {"value": 5 * MIB}),
    (SET_SPEED, " 0x10", {"value": 16 * MIB}),
    (SET_DOWNTIME, " 0.5", {"value": 0.5}),
    (SET_DOWNTIME, " 1", {"value": 1.0}),
    (SET_DOWNTIME, " 30ms", {"value": 0.03}),
    (SET_DOWNTIME, " 1e-1", {"value": 0.1}),
    (SET_DOWNTIME, " -1", {"value": -1.0}),
    (SET_DOWNTIME, " 0x10", {"value": 16.0}),
]
BAD = [
    (MIGRATE, "", "migrate: string expected"),
    (MIGRATE, " -d", "migrate: string expected"),
    (MIGRATE, " -x tcp:h:1", "migrate: unsupported option -x"),
    (MIGRATE, " -b -d tcp:h:1", "migrate: unsupported option -d"),
    (MIGRATE, " -db tcp:h:1", EXTRANEOUS.format("migrate")),
    (MIGRATE, " a b", EXTRANEOUS.format("migrate")),
    (MIGRATE, ' "tcp:h', "migrate: string expected"),
    (MIGRATE, ' "a\\qb"', "migrate: string expected"),
    (MIGRATE, ' "a\\', "migrate: string expected"),
    (SET_SPEED, "", "invalid size"),
    (SET_SPEED, " abc", "invalid size"),
    (SET_SPEED, " -1", "invalid size"),
    (SET_SPEED, " 1.5b", "invalid size"),
    (SET_SPEED, " inf", "invalid size"),
    (SET_SPEED, " 0x1.5", "invalid size"),
    (SET_SPEED, " .", "invalid size"),
    (SET_SPEED, " 0x1k", "invalid size"),
    (SET_SPEED, " 9999999999999999999", "invalid size"),
    (SET_SPEED, " 1mx", EXTRANEOUS.format("migrate_set_speed")),
    (SET_SPEED, " 5M x", EXTRANEOUS.format("migrate_set_speed")),
    (SET_SPEED, " 1e3", EXTRANEOUS.format("migrate_set_speed")),
    (SET_DOWNTIME, "", "Number expected"),
    (SET_DOWNTIME, " abc", "Number expected"),
    (SET_DOWNTIME, " nan", "Bad number"),
    (SET_DOWNTIME, " inf", "Bad number"),
    (SET_DOWNTIME, " 1e999", "Bad number"),
    (SET_DOWNTIME, " 0x" + 500 * "f", "Bad number"),
    (SET_SPEED, " ٣", "invalid size"),
    (SET_DOWNTIME, " 1h", "Unknown unit suffix"),
    (SET_DOWNTIME, " 1 2", EXTRANEOUS.format("migrate_set_downtime")),
]


@pytest.mark.parametrize(("command", "rest", "expected"), GOOD, ids=lambda value: str(value)[:40])
def test_arguments_are_read(command: Command, rest: str, expected: dict[str, Value]) -> None:
    assert parse_arguments(command.name, command.arguments, rest) == expected


@pytest.mark.parametrize(("command", "rest", "words"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_in_qemus_words(command: Command, rest: str, words: str) -> None:
    with pytest.raises(BadArgumentsError) as caught:
        parse_arguments(command.name, command.arguments, rest)
    assert str(caught.value) == f'{words}\nTry "help {command.name}" for more information\n'


@pytest.mark.parametrize(
    ("line", "name"),
    [("", ""), ("  ", ""), ("stop", "stop"), ("  info  status", "info"), ("quit/x", "quit"), ("x/4i 0", "x")],
)
def test_a_name_ends_where_qemus_ends(line: str, name: str) -> None:
    assert split_name(line)[0] == name


def test_the_name_and_the_rest_are_the_line() -> None:
    assert split_name("x/4i 0") == ("x", "/4i 0")
    assert split_name("info status ") == ("info", " status ")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), min_size=1))
def test_a_quoted_text_is_read_back(text: str) -> None:
    assert parse_arguments("migrate", MIGRATE.arguments, f" -d {quoted(text)}") == {"detach": True, "uri": text}


@given(st.text())
def test_no_text_makes_the_reader_stumble(text: str) -> None:
    for command in (MIGRATE, SET_SPEED, SET_DOWNTIME):
        try:
            parse_arguments(command.name, command.arguments, text)
        except BadArgumentsError as error:
            assert str(error).endswith("for more information\n")  # noqa: PT017 - either outcome is right
    try:
        value, length = parse_size(text)
    except BadArgumentsError:
        return
    assert value >= 0
    assert 0 < length <= len(text)
