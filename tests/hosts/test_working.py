"""What /proc says of guests' processes, read as counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.hosts.working import parse
from godwit.model import ThreadWork

STAT = "7 (qemu) a) S 1 7 7 0 -1 4194368 3035 0 0 0 250 50 0 0 20 0 4 0 8123 1 2 3"
TEXT = f"""100
1700000000.500000000
/sys/class/net/tap0/statistics/rx_bytes:1000
/sys/class/net/tap0/statistics/tx_bytes:200
/proc/7/stat:{STAT}
/proc/7/io:rchar: 999
/proc/7/io:read_bytes: 4096
/proc/7/io:write_bytes: 8192
/proc/7/io:cancelled_write_bytes: 0
/proc/7/task/7/schedstat:1000000000 250000000 17
/proc/7/task/9/schedstat:3000000000 0 17
"""
KNOWN = {"web": (7, 8123)}
TAPS = {"web": ("tap0",)}


def test_threads_storage_and_taps_are_counted() -> None:
    work = parse(TEXT, KNOWN, TAPS)
    assert work.at == 1700000000.5
    (web,) = work.guests
    assert (web.vm, web.pid, web.disk, web.network) == ("web", 7, 12288, 1200)
    assert web.threads == (ThreadWork(7, 1.0, 0.25), ThreadWork(9, 3.0, 0.0))


def test_another_process_of_that_number_is_not_the_guest() -> None:
    assert parse(TEXT, {"web": (7, 8124)}, TAPS).guests == ()
    assert parse(TEXT, {"web": (8, 8123)}, TAPS).guests == ()


def test_a_kernel_without_those_statistics_still_counts_ticks() -> None:
    bare = "\n".join(line for line in TEXT.splitlines() if "schedstat" not in line and "/io" not in line)
    (web,) = parse(bare, KNOWN, {}).guests
    assert web.threads == (ThreadWork(0, 3.0, None),)
    assert (web.disk, web.network) == (None, None)
    zeroes = TEXT.replace("1000000000 250000000", "0 0").replace("3000000000", "0")
    assert parse(zeroes, KNOWN, TAPS).guests[0].threads == (ThreadWork(0, 3.0, None),)


@pytest.mark.parametrize("text", ["", "100", "soon\nnow\n", "100\nnow\n", TEXT.replace("250000000 17", "")])
def test_what_cannot_be_read_is_said_to_be_so(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse(text, KNOWN, TAPS)


@given(st.text(max_size=300))
def test_whatever_a_host_prints_is_read_or_refused(noise: str) -> None:
    try:
        work = parse(TEXT + noise, KNOWN, TAPS)
    except (ValueError, IndexError):
        return
    assert len(work.guests) <= 1
