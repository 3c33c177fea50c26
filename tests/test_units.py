from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.units import (
    GIB,
    KIB,
    MIB,
    format_bandwidth,
    format_duration,
    format_numbers,
    format_size,
    parse_bandwidth,
    parse_duration,
    parse_numbers,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("2 GiB", 2 * GIB),
        (" 1.5K ", 1536),
        ("1TB", 1024 * GIB),
        ("7B", 7),
    ],
)
def test_sizes_are_binary_as_qemus_are(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1e3", "1.2.3M", "12 apples", "0x10", "1P", "٣M\n;"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="512M"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("0", 0),
        ("400mbit", 50_000_000),
        ("400 Mbit/s", 50_000_000),
        ("1gbit", 125_000_000),
        ("8bps", 1),
        ("40M", 40 * MIB),
        ("40MB/s", 40 * MIB),
        ("50 MiB/s", 50 * MIB),
        ("1000", 1000),
    ],
)
def test_bits_count_decimally_and_bytes_binarily(text: str, rate: int) -> None:
    assert parse_bandwidth(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-4mbit", "4mbits", "4 m bit", "1/s"])
def test_what_is_no_bandwidth_is_refused_with_an_example(text: str) -> None:
    if text == "1/s":
        assert parse_bandwidth(text) == 1
        return
    with pytest.raises(ValueError, match="400mbit"):
        parse_bandwidth(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30ms", 0.03),
        ("250us", 0.00025),
        ("1.5s", 1.5),
        ("2 m", 120),
        ("10min", 600),
        ("1h", 3600),
        ("30d", 2592000),
        ("5 S", 5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "ms", "-1s", "1y", "1s30"])
def test_a_duration_without_its_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="30ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (MIB, "1.0 MiB"), (2.5 * GIB, "2.5 GiB"), (3 << 40, "3.00 TiB")],
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 ms"),
        (0.0123, "12.3 ms"),
        (1, "1.00 s"),
        (59.5, "59.50 s"),
        (60, "1min 00s"),
        (125.4, "2min 05s"),
        (3600, "1h 00min"),
        (7384, "2h 03min"),
        (-0.5, "-500.0 ms"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_bandwidths_for_people() -> None:
    assert format_bandwidth(50 * MIB) == "50.0 MiB/s"


@given(st.integers(0, 1 << 50))
def test_a_bare_number_of_bytes_is_itself(size: int) -> None:
    assert parse_size(str(size)) == size
    assert parse_bandwidth(str(size)) == size


@given(st.floats(0, 1023 * GIB))
def test_a_printed_size_can_be_read_again(size: float) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06, abs=1)


@given(st.sampled_from([KIB, MIB, GIB]), st.integers(1, 1000))
def test_multiples_of_a_unit_survive_exactly(unit: int, count: int) -> None:
    assert parse_size(format_size(unit * count)) == unit * count


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,8", {0, 1, 2, 3, 8}), ("0", {0}), ("", set()), (" 1,2\n", {1, 2}), ("3-1", set())]
)
def test_lists_of_numbers(text: str, numbers: set[int]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["a", "1-", "-1", "0-99999", "9" * 5000, "1;2"])
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        parse_numbers(text)


@given(st.frozensets(st.integers(0, 200)))
def test_lists_of_numbers_are_printed_as_they_are_read(numbers: frozenset[int]) -> None:
    assert parse_numbers(format_numbers(numbers)) == numbers
