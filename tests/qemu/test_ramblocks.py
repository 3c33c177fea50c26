"""Where a guest's memory lies, read off what QEMU 10.0.2 printed, and off what nobody has seen yet."""

from __future__ import annotations

import pytest

from godwit.qemu.ramblocks import areas_of

HEAD = (
    "              Block Name    PSize              Offset               Used              Total                HVA  RO"
)
SMALL = """
                  pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 0x00007ff8e3e00000  rw
    /rom@etc/acpi/tables    4 KiB  0x00000000040c0000 0x0000000000020000 0x0000000000200000 0x00007ff8ede00000  ro
                 pc.bios    4 KiB  0x0000000004000000 0x0000000000040000 0x0000000000040000 0x00007ff934200000  ro
0000:00:01.0/virtio.rom    4 KiB  0x0000000004080000 0x0000000000040000 0x0000000000040000 0x00007ff8eec00000  ro
"""
NODES = """
            a big memory    2 MiB  0x0000000000000000 0x0000000080000000 0x0000000080000000 0x00007f0000000000  rw
                    ram1    2 MiB  0x0000000080000000 0x0000000080000000 0x0000000080000000 0x00007f8000000000  rw
                    vram    4 KiB  0x0000000100000000 0x0000000001000000 0x0000000001000000 0x00007fc000000000  rw
"""


def test_the_memory_of_a_small_guest_and_nothing_of_its_firmware() -> None:
    assert areas_of(HEAD + SMALL) == ((0x7FF8E3E00000, 64 << 20),)


def test_each_node_of_memory_whatever_its_name() -> None:
    assert areas_of(HEAD + NODES) == ((0x7F0000000000, 2 << 30), (0x7F8000000000, 2 << 30))


@pytest.mark.parametrize(
    "said",
    ["", "\n", HEAD, "unknown command: 'info ramblock'\n", HEAD.replace("HVA", "") + SMALL, HEAD + "\nnonsense\n\n"],
)
def test_where_no_address_is_said_there_is_none(said: str) -> None:
    assert areas_of(said) == ()
