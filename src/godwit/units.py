"""Bytes, bandwidths, durations and lists of numbers: how people write them, and how Godwit prints them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

_RANGE: Final = re.compile(r"^(\d{1,6})(?:-(\d{1,6}))?$")
_HIGHEST: Final = 1 << 16
_SHOWN: Final = 80

_BINARY: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*$", re.IGNORECASE)
_BIT_RATE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(bit|bit/s|bps)\s*$", re.IGNORECASE)
_BYTE_RATE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?(?:/s)?\s*$", re.IGNORECASE)
_DURATION: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|min|h|d)\s*$", re.IGNORECASE)
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_STEP: Final = 1024.0


def parse_size(text: str) -> int:
    """Return the bytes that `text` means: "512M", "2 GiB", "1048576".

    Suffixes are binary, as QEMU's are. Raises ValueError with what was expected.
    """
    match = _SIZE.match(text)
    if match is None:
        message = f"{text!r} is no size; write for example 512M or 2G"
        raise ValueError(message)
    return int(float(match[1]) * 1024 ** _BINARY[match[2].lower()])


def parse_bandwidth(text: str) -> int:
    """Return bytes a second: "400mbit" counts bits decimally, "40M" or "40MB/s" bytes binarily.

    "0" means unlimited. Raises ValueError with what was expected.
    """
    bits = _BIT_RATE.match(text)
    if bits is not None:
        return int(float(bits[1]) * 1000 ** _BINARY[bits[2].lower()] / 8)
    match = _BYTE_RATE.match(text)
    if match is None:
        message = f"{text!r} is no bandwidth; write for example 400mbit or 50MB/s"
        raise ValueError(message)
    return int(float(match[1]) * 1024 ** _BINARY[match[2].lower()])


def parse_duration(text: str) -> float:
    """Return the seconds that `text` means: "30ms", "1.5s", "10min", "30d". A bare number is refused as ambiguous."""
    match = _DURATION.match(text)
    if match is None:
        message = f"{text!r} is no duration; write a number with us, ms, s, min, h or d, for example 30ms"
        raise ValueError(message)
    return float(match[1]) * _SECONDS[match[2].lower()]


def format_size(size: float) -> str:
    """Print bytes for people: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < _STEP:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.2f} TiB"


def format_bandwidth(rate: float) -> str:
    """Print bytes a second for people."""
    return f"{format_size(rate)}/s"


def format_duration(seconds: float) -> str:
    """Print seconds for people: 0.0123 is "12.3 ms"."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.1f} ms"
    minute = 60
    if abs(seconds) < minute:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}h {rest // 60:02d}min" if hours else f"{rest // 60}min {rest % 60:02d}s"


def parse_numbers(text: str) -> frozenset[int]:
    """Return the numbers that `text` means: "0-3,8", as the kernel writes lists of processors and memory nodes.

    Raises ValueError with what was expected, and for numbers that no machine has.
    """
    found: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        match = _RANGE.match(part)
        if match is None:
            message = f"{text[:_SHOWN]!r} is no list of numbers; write for example 0-3,8"
            raise ValueError(message)
        first, last = int(match[1]), int(match[2] or match[1])
        if last > _HIGHEST:
            message = f"{text[:_SHOWN]!r} has a number above {_HIGHEST}"
            raise ValueError(message)
        found.update(range(first, last + 1))
    return frozenset(found)


def format_numbers(numbers: Iterable[int]) -> str:
    """Print numbers as the kernel does: {0, 1, 2, 8} is "0-2,8"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
