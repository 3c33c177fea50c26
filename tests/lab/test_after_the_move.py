"""What is done beside and after a move: hooks, and whether the guest that has moved is a healthy one."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from labwaits import until

from godwit.core.state import Phase
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

LOGGING = """\
#!/bin/sh
echo "$GODWIT_HOOK $GODWIT_GUEST $GODWIT_OUTCOME $GODWIT_RUNS_ON" >> "$GODWIT_HOME/hooked"
"""


@pytest.fixture
def hooks(ground: Ground) -> Iterator[Path]:
    folder = ground.home / "hooks"
    folder.mkdir(mode=0o700)
    for name in ("before-move", "after-switchover", "after-move", "move-failed"):
        write(folder, name, LOGGING)
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    (ground.home / "hooked").unlink(missing_ok=True)


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o700)


def hooked(ground: Ground) -> list[str]:
    return (ground.home / "hooked").read_text().splitlines()


async def test_hooks_run_around_a_move_on_the_controller(ground: Ground, healthy: None, hooks: Path) -> None:
    del healthy, hooks
    _, there = await ground.whereabouts()
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there))

    assert ran.status == 0, ran
    name, home = ground.name, ground.host(there)
    assert hooked(ground) == [
        f"before-move {name}  ",
        f"after-switchover {name}  ",
        f"after-move {name} completed {home}",
    ]
    await ground.assert_settled(there)


async def test_a_hook_that_says_no_keeps_the_guest_where_it_is(ground: Ground, healthy: None, hooks: Path) -> None:
    del healthy
    here, there = await ground.whereabouts()
    write(hooks, "before-move", "#!/bin/sh\necho a backup runs; exit 1\n")
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there))

    assert ran.status == 3, ran
    assert "a backup runs" in ran.out + ran.err
    assert hooked(ground) == [f"move-failed {ground.name} refused {ground.host(here)}"]
    await ground.assert_settled(here)


@pytest.mark.long
async def test_a_cancel_ends_a_hook_that_takes_long(ground: Ground, healthy: None, hooks: Path) -> None:
    del healthy
    here, there = await ground.whereabouts()
    pid = ground.home / "hook-pid"
    write(hooks, "before-move", f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; sleep 300\n")
    move = await ground.begin(there)
    await until(pid.exists, "the hook runs")
    assert (await move.state()).phase is Phase.PENDING

    assert (await ground.godwit("cancel", ground.name)).status == 0
    outcome = await move.outcome()

    assert outcome.status is OutcomeStatus.CANCELLED
    assert hooked(ground) == [f"move-failed {ground.name} cancelled {ground.host(here)}"]
    await until(lambda: not os.path.exists(f"/proc/{pid.read_text().strip()}"), "the hook is gone")  # noqa: PTH110
    pid.unlink()
    await ground.assert_settled(here)


@pytest.mark.long
async def test_a_runner_that_dies_in_a_hook_is_followed_by_one_that_runs_it_again(
    ground: Ground, healthy: None, hooks: Path
) -> None:
    del healthy
    _, there = await ground.whereabouts()
    told = f'echo "$GODWIT_ATTEMPT" >> "{ground.home}/attempts"; [ "$GODWIT_ATTEMPT" != 1 ] || sleep 300'
    write(hooks, "before-move", f"#!/bin/sh\n{told}\n")
    attempts = ground.home / "attempts"
    async with ground.client():
        move = await ground.begin(there)
        await until(attempts.exists, "the hook runs")
        await move.kill_runner()
        outcome = await move.outcome()

    assert outcome.status is OutcomeStatus.COMPLETED
    assert attempts.read_text().split() == ["1", "2"]
    attempts.unlink()
    await ground.assert_settled(there)


async def test_a_kernel_in_trouble_is_told_and_the_console_is_given_back(ground: Ground, healthy: None) -> None:
    """The guest writes to its console what a kernel in trouble writes, all the while."""
    del healthy
    _, there = await ground.whereabouts()
    line = "kernel BUG at lib/list_debug.c:51!"
    # No process of its own for each line: those take an emulated guest that has just come its time.
    ground.ssh(f"yes '{line}' > /dev/ttyS0 2>&1 & echo $! > /tmp/noisy")
    try:
        move = await ground.begin(there, "--probe", f"{ground.address}@{ground.host('client')}")
        outcome = await move.outcome()
    finally:
        ground.ssh("kill $(cat /tmp/noisy)")

    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.guest_alive is True
    (finding,) = [finding for finding in outcome.findings if finding.code == "guest-kernel"]
    assert line in finding.found
    # Whoever comes next has the console to themselves.
    path = Path(f"/proc/{ground.init(there)}/root/run/godwit/{ground.name}/console.sock")
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(path))
        console.settimeout(30)
        console.sendall(b"\recho mine $((6 * 7))\r")
        said = b""
        while b"mine 42" not in said:
            said += console.recv(4096)
    await ground.assert_settled(there)
