"""A guest's QEMU replaced on its own host: real processes, real memory, users who notice nothing, and QEMUs that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from labtools import MEMORY, Move, Trap, until

from godwit import app
from godwit.core.state import Phase
from godwit.errors import MigrationFailedError, RefusedError
from godwit.model import OutcomeStatus
from godwit.qemu.beside import unshared

if TYPE_CHECKING:
    from labtools import Ground, Ran, Traps

    from godwit.model import Outcome, Vm

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

GUEST: Final = "godwit.qemu.guest:QemuGuest"
HOST: Final = "godwit.hosts.plain:PlainHost"
ONE_PERCENT: Final = MEMORY // 100

QEMU: Final = "/usr/bin/qemu-system-x86_64"
DIES_AT_START: Final = f"""#!/bin/sh
case "$*" in *-incoming*) echo "this one is broken" >&2; exit 1 ;; esac
exec {QEMU} "$@"
"""
DIES_SOON: Final = f"""#!/bin/sh
case "$*" in *-incoming*) (sleep 0.4; kill -9 $$) & ;; esac
exec {QEMU} "$@"
"""


async def vm_of(ground: Ground) -> Vm:
    async with app.opened(ground.home) as service:
        return await service.inventory.vm(ground.name)


def program(ground: Ground, machine: str, name: str, text: str) -> str:
    """Put a program where a host finds it."""
    path = ground.lab.images(machine) / name
    path.write_text(text)
    path.chmod(0o755)
    return f"/mnt/images/{name}"


async def start_unshared(ground: Ground) -> None:
    """Start the guest anew with memory that no other process can take."""
    vm = await vm_of(ground)
    async with app.opened(ground.home) as service:
        await service.stop_vm(vm.name, force=True)
        await service.inventory.put_vm(replace(vm, launch=unshared(vm.launch)))
        await service.start_vm(vm.name)
    await ground.answers()


def sockets(ground: Ground, machine: str) -> set[str]:
    return {one.rpartition("/")[2] for one in ground.left_on(machine) if "/" in one}


async def assert_one(ground: Ground, machine: str) -> None:
    """Assert that one process runs the guest on its host, that the inventory knows it, and that nothing else is left."""
    await ground.assert_settled(machine)
    vm = await vm_of(ground)
    assert vm.sibling == ""
    assert sockets(ground, machine) == {
        path.rpartition("/")[2] for path in (vm.control, vm.observe or "", vm.console or "", vm.control)
    } | {path for path in sockets(ground, machine) if path.startswith("agent.sock")}
    assert ground.taps(machine) == [tap.interface for tap in vm.launch.taps]
    links = json.loads(ground.inside(machine, "ip", "-json", "link", "show", ground.taps(machine)[0]))
    assert links[0]["master"] == vm.launch.taps[0].bridge


async def begin(ground: Ground, *options: str, traps: Traps | None = None) -> Move:
    """Ask for an upgrade and leave it to its runner."""
    ran = await ground.godwit("upgrade", ground.name, "--detach", "--json", *options, traps=traps)
    assert ran.status == 0, ran
    identifier = str(ran.lines[0]["id"])
    ground.moves.append(identifier)
    return Move(ground, identifier)


async def test_twice_in_place_then_to_another_host_and_back(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    probe = f"{ground.address}@{ground.host('client')}"
    ground.ssh("echo written before > /data/file; sync")
    async with ground.client() as ticks:
        for generation in (2, 3):
            old, before = ground.qemus()[here][0].pid, await vm_of(ground)
            seen = ticks.ticks
            ran = await ground.godwit("upgrade", ground.name, "--json", "--probe", probe)
            assert ran.status == 0, ran.err
            outcome = ran.lines[-1]["data"]
            assert (outcome["status"], outcome["guest_alive"]) == ("completed", True)
            assert outcome["qemus"] == ["10.0.2", "10.0.2"]
            assert 0 < outcome["bytes"] <= ONE_PERCENT
            assert 0 < outcome["downtime"]["blackout_ms"] <= outcome["downtime"]["client_gap_ms"] + 20
            after = await vm_of(ground)
            assert ground.qemus()[here][0].pid != old
            assert after.control == f"/run/godwit/{ground.name}/control.sock.godwit-{generation}"
            assert after.launch.taps[0].interface != before.launch.taps[0].interface
            await until(lambda seen=seen: ticks.ticks > seen, "the guest ticks on")  # type: ignore[misc]
            await assert_one(ground, here)
        assert ground.ssh("cat /data/file") == "written before"
        for machine in (there, here):
            ran = await ground.godwit("migrate", ground.name, ground.host(machine), "--json")
            assert ran.status == 0, ran.err
            await assert_one(ground, machine)
        ran = await ground.godwit("upgrade", ground.name)
        assert ran.status == 0, ran.err
        assert "in QEMU 10.0.2 after 10.0.2; replaced in" in ran.out
    await assert_one(ground, here)
