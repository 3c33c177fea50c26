"""What a console says of its kernel: real lines of kernels in trouble, and lines that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.kernellog import MOST, kernel_trouble


@pytest.mark.parametrize(
    ("line", "fatal"),
    [
        ("[   12.301] list_del corruption. next->prev should be ffff888003a1, but was 0000000000000000", False),
        ("[   12.302] kernel BUG at lib/list_debug.c:51!", False),
        ("[   12.302] Oops: 0000 [#1] PREEMPT SMP PTI", False),
        ("[   13.000] BUG: kernel NULL pointer dereference, address: 0000000000000008", False),
        ("[   13.000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [redis-server:211]", False),
        ("[   13.000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", False),
        ("[   13.000] rcu: INFO: rcu_sched self-detected stall on CPU", False),
        ("[  240.000] INFO: task jbd2/vda-8:123 blocked for more than 120 seconds.", False),
        ("[   13.000] general protection fault, probably for non-canonical address 0x1: 0000", False),
        ("[   13.100] Kernel panic - not syncing: Fatal exception in interrupt", True),
        ("*** STOP: 0x0000007B (0xF78D2524,0xC0000034,0x00000000,0x00000000)", True),
    ],
)
def test_a_kernel_in_trouble_is_recognised(line: str, fatal: bool) -> None:  # noqa: FBT001 - a table's column
    found = kernel_trouble(f"web1 login: \r\n{line}\r\n/ # ".encode())
    assert found is not None
    assert found.lines == (line,)
    assert found.fatal is fatal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web1 login: ",
        "[    1.000] Linux version 6.1.0 (debian) #1 SMP PREEMPT_DYNAMIC",
        "[    1.000] watchdog: Delayed init of the lockup detector failed: -19",
        "[    1.000] Debugging: no BUG",
        "[    2.000] virtio_net virtio0 eth0: link up",
        "0 bugs, 0 oopses",
    ],
)
def test_a_healthy_kernel_is_let_be(text: str) -> None:
    assert kernel_trouble(text.encode()) is None


def test_what_follows_the_first_lines_is_left_out_and_nothing_acts_on_a_terminal() -> None:
    found = kernel_trouble(b"\x1b]0;x\x07BUG: one\n" + b"".join(b"BUG: %d\n" % n for n in range(100)) + b"KERNEL PANIC")
    assert found is not None
    assert len(found.lines) == MOST
    assert found.fatal
    assert "\x1b" not in "".join(found.lines)


@given(st.binary(max_size=300))
def test_whatever_a_guest_prints_is_read(said: bytes) -> None:
    found = kernel_trouble(said)
    assert found is None or found.lines
