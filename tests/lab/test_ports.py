"""TCP ports of the target that somebody else has: the guest's VNC server and the stream take others."""

# ruff: noqa: ASYNC240 - short looks at this very machine, while nothing else has to go on

from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from labwaits import until

from godwit import app
from godwit.errors import MigrationFailedError, RefusedError
from godwit.model import MIGRATION_PORTS, OutcomeStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

VNC: Final = 5900

# A port that is bound and not listened at is in no table under /proc/net, and yet nobody else can bind it.
TAKE: Final = """
import socket, sys
taken = []
for port in map(int, sys.argv[2:]):
    taken.append(socket.socket())
    taken[-1].bind(("", port))
    if sys.argv[1] == "listen":
        taken[-1].listen()
print("taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def taken(ground: Ground, machine: str, ports: Collection[int], how: str) -> Iterator[None]:
    """Let a process on a machine have these ports; `how` is "listen" or "bind"."""
    ground.inside(machine, "ss", "-tKH", "state", "time-wait")  # the port of the last stream to here rests for a minute
    command = ground.lab.command(machine, ["python3", "-c", TAKE, how, *map(str, ports)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "taken\n"
            yield
        finally:
            process.stdin.close()  # it ends by itself then


def listening(ground: Ground, machine: str) -> set[int]:
    """Return the TCP ports at which the machine's QEMU listens."""
    rows = ground.inside(machine, "ss", "-ltnpH").splitlines()
    return {int(row.split()[3].rpartition(":")[2]) for row in rows if "qemu" in row}


async def show_screen(ground: Ground, path: Path, display: str) -> None:
    """Start the present guest once more, with a screen that VNC shows."""
    async with app.opened(ground.home) as service:
        vm = await service.inventory.vm(ground.name)
    path.write_text(f'vnc = "{display}"\n{vm.source_text}')
    for words in (
        ("vm", "stop", "--force", vm.name),
        ("vm", "remove", vm.name),
        ("vm", "define", "--on", vm.host, str(path)),
        ("vm", "start", vm.name),
    ):
        ran = await ground.godwit(*words)
        assert ran.status == 0, ran.err
    await ground.answers()


@pytest.mark.parametrize(
    ("how", "status", "mend"),
    [
        ("listen", RefusedError.exit_status, "mend: ss -tanp"),  # preflight sees it
        ("bind", MigrationFailedError.exit_status, "mend: see with `ss -tan`"),
    ],
    ids=["listen", "bind"],
)
async def test_without_any_port_the_guest_stays_where_it_is(ground: Ground, how: str, status: int, mend: str) -> None:
    here, there = await ground.whereabouts()
    with taken(ground, there, MIGRATION_PORTS, how):
        async with ground.client():
            ran = await ground.godwit("migrate", ground.name, ground.host(there))
    assert ran.status == status, ran
    said = ran.out + ran.err
    assert re.search(rf"all TCP ports from \d+ to {MIGRATION_PORTS[-1]} ar", said)
    assert mend in said
    tokens = ground.inside(here, "find", "/run/godwit", "/mnt/images", "-name", ".godwit-*")
    assert tokens == "", "what was planted to prove that disks are shared lies in the next migration's way"
    await until(lambda: ground.qemus()[there] == (), "the trial of the target's KVM has ended")
    await ground.assert_settled(here)


async def test_a_port_that_is_taken_after_it_was_chosen_is_another_port(ground: Ground) -> None:
    """All ports of the range but the last cannot be had, and no look at the host shows that."""
    _, there = await ground.whereabouts()
    free = MIGRATION_PORTS[-1]
    with taken(ground, there, [port for port in MIGRATION_PORTS if port != free], "bind"):
        async with ground.client():
            move = await ground.begin(there)
            assert (await move.outcome()).status is OutcomeStatus.COMPLETED
    assert (await move.state()).uri.endswith(f":{free}")
    await ground.assert_settled(there)


@pytest.mark.long
async def test_a_vnc_port_that_is_taken_on_the_target_becomes_the_next_free_one(ground: Ground, tmp_path: Path) -> None:
    await show_screen(ground, tmp_path / "guest.toml", ":7")
    here, there = await ground.whereabouts()
    assert listening(ground, here) == {VNC + 7}
    with taken(ground, there, (VNC + 7, VNC + 8), "listen"):
        async with ground.client():
            ran = await ground.godwit("migrate", ground.name, ground.host(there))
            assert ran.status == 0, ran.err
        assert listening(ground, there) == {VNC + 9}
        await ground.assert_settled(there)
    # On the way back nothing is in its way: it stays at the display that it has now.
    assert (await ground.godwit("migrate", ground.name, ground.host(here))).status == 0
    assert listening(ground, here) == {VNC + 9}
    await ground.assert_settled(here)
