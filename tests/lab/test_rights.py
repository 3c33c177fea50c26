"""Who can reach what a guest's QEMU opens: its sockets are their owner's alone, wherever it runs."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]


def _assert_closed(ground: Ground, machine: str) -> None:
    (qemu,) = ground.qemus()[machine]
    root = Path(f"/proc/{ground.init(machine)}/root")
    folder = root / "run/godwit" / ground.name
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    sockets = [path.name for path in folder.iterdir() if path.is_socket()]
    assert len(sockets) >= 2, found  # the one that drives it, and the one that watches it
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}
    for one in (folder, folder.parent):
        assert stat.S_IMODE(one.stat().st_mode) & 0o077 == 0, one
    status = Path(f"/proc/{qemu.pid}/status").read_text()
    assert "Umask:\t0077" in status, status
    listening = ground.inside(machine, "ss", "-Htlnp").splitlines()
    assert [line for line in listening if f"pid={qemu.pid}," in line] == []


@pytest.mark.long
async def test_the_sockets_of_a_guest_are_its_owners_alone_where_it_was_started_and_where_it_moved(
    ground: Ground,
) -> None:
    here, there = await ground.whereabouts()
    _assert_closed(ground, here)
    ran = await ground.godwit("migrate", ground.name, ground.host(there))
    assert ran.status == 0, ran
    _assert_closed(ground, there)
