"""A guest's QEMU replaced on its own host: real processes and memory, users who notice nothing, QEMUs that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from labmoves import Move
from labtools import MEMORY
from labtraps import Trap
from labwaits import until

from godwit import app
from godwit.core.state import Phase
from godwit.errors import MigrationFailedError, RefusedError
from godwit.model import OutcomeStatus
from godwit.qemu.beside import unshared

if TYPE_CHECKING:
    from labtools import Ground
    from labtraps import Traps

    from godwit.model import Vm

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
    """Assert that one process runs the guest on its host, as the inventory says, and that nothing else is left."""
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


@pytest.mark.long
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


@pytest.mark.long
async def test_memory_that_cannot_be_taken_is_copied_and_the_user_is_told_why(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    await start_unshared(ground)
    old = ground.qemus()[here][0].pid
    checked = await ground.godwit("upgrade", ground.name, "--dry-run")
    assert checked.status == 0, checked
    assert "is copied to the new QEMU: Memory region" in checked.out
    assert ground.qemus()[here][0].pid == old
    async with ground.client():
        ran = await ground.godwit("upgrade", ground.name, "--json")
        assert ran.status == 0, ran.err
    outcome = ran.lines[-1]["data"]
    assert outcome["bytes"] > 10 * ONE_PERCENT
    assert [one["code"] for one in outcome["findings"] if one["severity"] == "warn"] == ["upgrade-by-copy"]
    assert ground.qemus()[here][0].pid != old
    await assert_one(ground, here)
    moved = await ground.godwit("migrate", ground.name, ground.host(there))
    assert moved.status == 0, moved.err
    await assert_one(ground, there)
    async with app.opened(ground.home) as service:  # the next test has a guest whose memory can be taken
        await service.stop_vm(ground.name, force=True)


@pytest.mark.long
async def test_a_qemu_that_does_not_serve_leaves_the_guest_in_its_old_one(ground: Ground) -> None:
    """One that is missing, one that is no program, one that is no QEMU, one that dies at start, one that dies later."""
    here, _ = await ground.whereabouts()
    (ground.lab.images(here) / "plain").write_text("no program")
    refused, failed = RefusedError.exit_status, MigrationFailedError.exit_status
    cases = (
        ("/mnt/images/none", refused, "there is no /mnt/images/none"),
        ("/mnt/images/plain", refused, "there is no /mnt/images/plain"),
        (program(ground, here, "no-qemu", "#!/bin/sh\nexit 1\n"), refused, "does not say that it is a QEMU"),
        (program(ground, here, "broken-qemu", DIES_AT_START), failed, "this one is broken"),
        (program(ground, here, "short-qemu", DIES_SOON), failed, ""),
    )
    old, before = ground.qemus()[here][0].pid, await vm_of(ground)
    async with ground.client():
        for path, status, words in cases:
            ran = await ground.godwit("upgrade", ground.name, "--qemu", path, deadline=120)
            assert ran.status == status, (path, ran)
            assert words in ran.err, (path, ran)
            assert "mend: " in ran.err
            assert ground.qemus()[here][0].pid == old
            assert await vm_of(ground) == before
            await assert_one(ground, here)
        ran = await ground.godwit("upgrade", ground.name, "--qemu", "qemu")
        assert (ran.status, ran.out) == (2, "")
        assert "is no absolute path" in ran.err
        assert "mend: " in ran.err
        good = await ground.godwit("upgrade", ground.name, "--qemu", QEMU)
        assert good.status == 0, good.err
    assert ground.qemus()[here][0].pid != old
    assert (await vm_of(ground)).launch.argv[0] == QEMU
    await assert_one(ground, here)


# The instant of the runner's death, the phase that the journal shows then, and how the upgrade must end: None where
# both ends are right.
INSTANTS: Final[dict[str, tuple[Trap, Phase, OutcomeStatus | None]]] = {
    "pending": (Trap("kill", at=f"{HOST}.facts"), Phase.PENDING, OutcomeStatus.COMPLETED),
    "preparing, nothing done yet": (Trap("kill", "preparing"), Phase.PREPARING, OutcomeStatus.FAILED),
    "preparing, the new QEMU waits": (Trap("kill", at=f"{HOST}.launch_taker"), Phase.PREPARING, OutcomeStatus.FAILED),
    "precopy, before the stream": (Trap("kill", "precopy"), Phase.PRECOPY, OutcomeStatus.FAILED),
    "precopy, the stream has just begun": (Trap("kill", at=f"{GUEST}.hand_over"), Phase.PRECOPY, None),
    "switchover, not yet in the journal": (Trap("kill", "switchover", "before"), Phase.PRECOPY, None),
    "switchover, in the journal": (Trap("kill", "switchover"), Phase.SWITCHOVER, None),
    "committing, before cont": (
        Trap("kill", at=f"{GUEST}.resume", when="before"),
        Phase.SWITCHOVER,
        OutcomeStatus.COMPLETED,
    ),
    "committing, after cont": (Trap("kill", at=f"{GUEST}.resume"), Phase.SWITCHOVER, OutcomeStatus.COMPLETED),
    "finishing, before the old QEMU is ended": (
        Trap("kill", at=f"{HOST}.destroy", when="before"),
        Phase.FINISHING,
        OutcomeStatus.COMPLETED,
    ),
    "finishing, after the old QEMU was ended": (
        Trap("kill", at=f"{HOST}.destroy"),
        Phase.FINISHING,
        OutcomeStatus.COMPLETED,
    ),
}


QUICK: Final = {"committing, after cont"}


@pytest.mark.parametrize(
    "instant", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in INSTANTS]
)
async def test_a_killed_runner_leaves_one_guest_in_one_qemu(ground: Ground, instant: str) -> None:
    trap, phase, status = INSTANTS[instant]
    here, _ = await ground.whereabouts()
    old, before = ground.qemus()[here][0].pid, await vm_of(ground)
    traps = ground.lay(trap)
    async with ground.client():
        upgrade = await begin(ground, traps=traps)
        outcome = await upgrade.outcome()
    assert traps.sprung(), "the guest's memory was copied, or its runner never came so far"
    assert await upgrade.epoch() == 2
    assert phase.value in await upgrade.phases()
    assert outcome.status in ({status} if status else {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}), outcome
    assert outcome.leftovers == ()
    replaced = outcome.status is OutcomeStatus.COMPLETED
    assert (ground.qemus()[here][0].pid != old) == replaced
    assert ((await vm_of(ground)).control != before.control) == replaced
    await assert_one(ground, here)
    again = await ground.godwit("upgrade", ground.name)  # nothing of the first one is in its way
    assert again.status == 0, again.err
    await assert_one(ground, here)
