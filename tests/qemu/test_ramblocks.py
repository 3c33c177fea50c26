"""Where a guest's memory lies, read off what QEMU 10.0.2 and 7.2 printed, and off what nobody has seen yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from godwit.qemu.ramblocks import areas

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


OLD = """
              Block Name    PSize              Offset               Used              Total
                  pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000
   0000:00:02.0/vga.vram    4 KiB  0x0000000004080000 0x0000000001000000 0x0000000001000000
""".lstrip("\n")


def monitor(*pairs: tuple[str, str]) -> Callable[[str], Awaitable[str]]:
    answers = dict(pairs)

    async def human(line: str) -> str:
        return answers[line]

    return human


async def test_the_memory_of_a_small_guest_and_nothing_of_its_firmware() -> None:
    assert await areas(monitor(("info ramblock", HEAD + SMALL))) == ((0x7FF8E3E00000, 64 << 20),)


async def test_each_node_of_memory_whatever_its_name() -> None:
    found = await areas(monitor(("info ramblock", HEAD + NODES)))
    assert found == ((0x7F0000000000, 2 << 30), (0x7F8000000000, 2 << 30))


async def test_an_older_qemu_is_asked_for_the_first_byte() -> None:
    first = "Host virtual address for 0x0 (pc.ram) is 0x7f49b3e00000\r\n"
    assert await areas(monitor(("info ramblock", OLD), ("gpa2hva 0x0", first))) == ((0x7F49B3E00000, 64 << 20),)
    refused = "No memory is mapped at address 0x0\n"
    assert await areas(monitor(("info ramblock", OLD), ("gpa2hva 0x0", refused))) == ()


@pytest.mark.parametrize(
    "said",
    ["", "\n", HEAD, "unknown command: 'info ramblock'\n", HEAD + "\nnonsense\n\n", HEAD + "\n a b c d e f g h\n"],
)
async def test_where_nothing_is_said_there_is_nothing(said: str) -> None:
    assert await areas(monitor(("info ramblock", said))) == ()
