"""Guests that are saved to a file and brought back: real memory, real files, and whatever breaks on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
from labtraps import Trap
from labwaits import until

from godwit import app
from godwit.core.saves import Job, Step
from godwit.errors import BusyError, HostError, SaveFailedError, SaveFileError
from godwit.service import STARTING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from labtools import Ground
    from labtraps import Traps

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

FILE: Final = "/mnt/images/kept.save"
FILES: Final = "godwit.hosts.savefiles:PlainSaveFiles"
GUEST: Final = "godwit.qemu.guest:QemuGuest"
HOST: Final = "godwit.hosts.plain:PlainHost"
BOOK: Final = "godwit.journal.sqljobs:SqlJobs"


@pytest.fixture(autouse=True)
def clean(ground: Ground) -> Iterator[None]:
    """See to it that no test finds another's files."""
    yield
    for path in ground.lab.images("host1").glob("*save*"):
        path.unlink()


def kept(ground: Ground) -> list[str]:
    """Return the names of all files of saves, whole or not."""
    return sorted(path.name for path in ground.lab.images("host1").glob("*save*"))


async def newest(ground: Ground) -> Job:
    async with app.opened(ground.home) as service:
        return (await service.journal.jobs.rows(limit=1))[0]


async def saved(ground: Ground, *options: str, traps: Traps | None = None) -> str:
    """Save the guest; returns where it was."""
    here, _ = await ground.whereabouts()
    ran = await ground.godwit("save", ground.name, FILE, *options, traps=traps)
    assert ran.status == 0, ran
    assert f"{ground.name} is saved: " in ran.out
    assert f"godwit restore {FILE} {ground.host(here)}" in ran.out
    assert kept(ground) == ["kept.save"]
    assert not any(ground.qemus().values())
    assert ground.left_on(here) == []
    return here


async def restored(ground: Ground, machine: str, *options: str) -> None:
    ran = await ground.godwit("restore", FILE, ground.host(machine), *options)
    assert ran.status == 0, ran
    assert f"{ground.name} goes on on {ground.host(machine)}" in ran.out
    await ground.assert_settled(machine)


async def assert_runs_on(ground: Ground, here: str) -> None:
    """The guest runs where it was, and nothing of the save is left."""
    await until(lambda: ground.run_state(ground.qemus()[here][0].pid) == "running", "the guest runs on")
    await ground.assert_settled(here)
    assert kept(ground) == []


@pytest.mark.long
async def test_a_guest_goes_on_where_it_was_on_the_same_host_and_on_another(ground: Ground) -> None:
    """A client's connection lives through all of it: not a tick is lost or comes twice."""
    ground.ssh("echo kept > /data/token; sync; echo kept > /run/token")
    async with ground.client():
        here = await saved(ground)
        await restored(ground, here)
    (ground.lab.images("host1") / "kept.save").unlink()
    async with ground.client():
        here = await saved(ground)
        there = "host2" if here == "host1" else "host1"
        await restored(ground, there)
        assert ground.ssh("cat /data/token /run/token") == "kept\nkept"
    ran = await ground.godwit("migrate", ground.name, ground.host(here))
    assert ran.status == 0, "a restored guest can move as any other: no capability of the file was left on"


@pytest.mark.parametrize("program", ["zstd", pytest.param("gzip", marks=pytest.mark.long)])
async def test_a_compressed_save_is_smaller_and_goes_on_as_well(ground: Ground, program: str) -> None:
    async with ground.client():
        here = await saved(ground, "--compress", program)
        size = (ground.lab.images("host1") / "kept.save").stat().st_blocks * 512
        assert size < 90 << 20, "the guest's memory is smaller than it was"
        await restored(ground, here)


@pytest.mark.long
async def test_saved_twice_and_a_name_that_is_taken(ground: Ground) -> None:
    here = await saved(ground)
    again = await ground.godwit("save", ground.name, FILE)
    assert again.status != 0
    assert "does not run" in again.err
    await restored(ground, here)
    async with ground.client():
        taken = await ground.godwit("save", ground.name, FILE)
        assert taken.status == HostError.exit_status
        assert "is not overwritten" in taken.err
    await ground.assert_settled(here)
    second = await ground.godwit("restore", FILE, ground.host(here))
    assert second.status == BusyError.exit_status
    assert "is running" in second.err
    ground.ssh("date > /data/written-since; sync")
    assert (await ground.godwit("vm", "stop", "--force", ground.name)).status == 0
    late = await ground.godwit("restore", FILE, ground.host(here))
    assert late.status == SaveFileError.exit_status, "it ran since: its disk is another"
    assert f"{ground.name}.qcow2" in late.err
    assert kept(ground) == ["kept.save"]


async def test_a_file_that_was_cut_off_or_altered_is_refused_and_a_whole_copy_still_works(ground: Ground) -> None:
    here = await saved(ground)
    file = ground.lab.images("host1") / "kept.save"
    whole = file.stat().st_size
    copy = file.with_name("copy-of-save")
    _copy(file, copy)
    damages: dict[str, Callable[[], object]] = {
        "cut off": lambda: os.truncate(file, whole // 2),
        "part 1 of 1": lambda: _poke(file, whole - 100, b"\xff\xfe"),
        "description is not as it was": lambda: _poke(file, 200, b"##"),
        "is no save": lambda: file.write_bytes(b"something else"),
    }
    for words, damage in damages.items():
        damage()
        ran = await ground.godwit("restore", FILE, ground.host(here))
        assert ran.status == SaveFileError.exit_status, ran
        assert words in ran.err
        assert not any(ground.qemus().values())
        _copy(copy, file)
    await restored(ground, here)


def _copy(one: Path, other: Path) -> None:
    subprocess.run(["cp", "--sparse=always", one, other], check=True)


def _poke(file: Path, place: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(place)
        before = opened.read(len(data))
        opened.seek(place)
        opened.write(bytes(one ^ 0xFF for one in before) if before == data else data)


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--compress", "zstd")], ids=["direct", "zstd"])
async def test_a_full_disk_leaves_the_guest_running_and_no_half_file(ground: Ground, options: tuple[str, ...]) -> None:
    here, _ = await ground.whereabouts()
    ground.inside(here, "sh", "-c", "mkdir -p /mnt/small && mount -t tmpfs -o size=16m none /mnt/small")
    try:
        async with ground.client():
            ran = await ground.godwit("save", ground.name, "/mnt/small/it", *options)
            assert ran.status == SaveFailedError.exit_status, ran
            assert f"{ground.name} runs on, on {ground.host(here)}" in ran.err
        assert ground.inside(here, "ls", "/mnt/small") == ""
        await ground.assert_settled(here)
        await saved(ground)
        await restored(ground, here)
    finally:
        ground.inside(here, "umount", "/mnt/small")


DEATHS: Final = {
    "before anything": Trap("kill-all", at=f"{BOOK}.take_over"),
    "with the guest stopped": Trap("kill-all", at=f"{GUEST}.pause"),
    "while it is written": Trap("kill-all", at=f"{GUEST}.migrate"),
    "when all of it is written": Trap("kill-all", at=f"{FILES}.measure"),
    "before the file has its name": Trap("kill-all", at=f"{FILES}.complete", when="before"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", DEATHS)
async def test_a_save_that_is_killed_is_taken_back_by_the_next_command(ground: Ground, name: str) -> None:
    """Runner and supervisor die at once, as with their machine; `godwit save` of the same guest mends it."""
    here, _ = await ground.whereabouts()
    traps = ground.lay(DEATHS[name])
    async with ground.client():
        process = await ground.spawn("save", ground.name, FILE, traps=traps)
        await until(traps.sprung, "the trap springs")
        process.kill()
        await process.wait()
        job = await newest(ground)
        assert not job.finished
        ran = await ground.godwit("save", ground.name, FILE, deadline=60 + 2 * STARTING)
        assert ran.status == 0, ran
        first = next(one for one in await jobs(ground) if one.id == job.id)
        assert first.step is (Step.DONE if name == "before anything" else Step.FAILED)
        await restored(ground, here)


@pytest.mark.long
async def test_the_next_command_that_looks_at_guests_lets_one_run_on_whose_save_was_killed(ground: Ground) -> None:
    here, _ = await ground.whereabouts()
    traps = ground.lay(Trap("kill-all", at=f"{FILES}.measure"))
    async with ground.client():
        process = await ground.spawn("save", ground.name, FILE, traps=traps)
        await until(traps.sprung, "the trap springs")
        process.kill()
        await process.wait()
        await asyncio.sleep(STARTING)
        ran = await ground.godwit("vm", "list")
        assert "up again" in ran.err
        await until(lambda: ground.run_state(ground.qemus()[here][0].pid) == "running", "the guest runs on")
        await until(lambda: kept(ground) == [], "the half file is removed")
    async with app.opened(ground.home) as service:
        await until(lambda: not service.runners.alive(ground.name), "its runner has ended")
    await assert_runs_on(ground, here)


async def jobs(ground: Ground) -> list[Job]:
    async with app.opened(ground.home) as service:
        return await service.journal.jobs.rows()


async def test_a_runner_that_is_killed_is_followed_by_one_that_goes_back_at_once(ground: Ground) -> None:
    here, _ = await ground.whereabouts()
    async with ground.client():
        ran = await ground.godwit("save", ground.name, FILE, traps=ground.lay(Trap("kill", at=f"{GUEST}.migrate")))
        assert ran.status == SaveFailedError.exit_status, ran
        assert "died on the way" in ran.err
    await assert_runs_on(ground, here)


@pytest.mark.long
@pytest.mark.parametrize("at", [f"{FILES}.complete", f"{GUEST}.quit", f"{HOST}.destroy", f"{FILES}.chunk_sum"])
async def test_from_the_instant_when_the_file_has_its_name_a_killed_save_goes_on(ground: Ground, at: str) -> None:
    here, _ = await ground.whereabouts()
    async with ground.client():
        await saved(ground, traps=ground.lay(Trap("kill", at=at)))
        await restored(ground, here)


@pytest.mark.long
@pytest.mark.parametrize(
    "at",
    [f"{GUEST}.resume", *(pytest.param(at, marks=pytest.mark.long) for at in (f"{HOST}.launch", f"{GUEST}.listen"))],
)
async def test_a_restore_whose_runner_is_killed_is_taken_back_or_done(ground: Ground, at: str) -> None:
    async with ground.client():
        here = await saved(ground)
        ran = await ground.godwit("restore", FILE, ground.host(here), traps=ground.lay(Trap("kill", at=at)))
        if at == f"{GUEST}.resume":
            assert ran.status == 0, ran
            await ground.assert_settled(here)
        else:
            assert ran.status == SaveFailedError.exit_status, ran
            assert not any(ground.qemus().values())
            assert ground.left_on(here) == []
            await restored(ground, here)


async def test_ctrl_c_lets_the_guest_run_on(ground: Ground) -> None:
    here, _ = await ground.whereabouts()
    traps = ground.lay(Trap("hold", at=f"{GUEST}.migrate", when="before"))
    async with ground.client():
        process = await ground.spawn("save", ground.name, FILE, traps=traps)
        await until(traps.sprung, "the guest is stopped")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        while b"going back" not in await process.stdout.readline():
            pass
        traps.release()
        _, said = await process.communicate()
        assert process.returncode == SaveFailedError.exit_status
        assert f"the save was cancelled; {ground.name} runs on".encode() in said
    await assert_runs_on(ground, here)


async def test_a_qemu_that_dies_while_it_is_saved_leaves_no_half_file(ground: Ground) -> None:
    here, _ = await ground.whereabouts()
    traps = ground.lay(Trap("run", at=f"{GUEST}.migrate", when="before"))
    traps.runs(f"kill -9 {await ground.qemu(here)}")
    ran = await ground.godwit("save", ground.name, FILE, traps=traps)
    assert ran.status == 10
    assert "its QEMU" in ran.err
    assert kept(ground) == []
    assert ground.left_on(here) == [] or not any(ground.qemus().values())


@pytest.mark.long
async def test_a_guest_that_was_paused_is_paused_again(ground: Ground) -> None:
    here, _ = await ground.whereabouts()
    async with ground.client():
        assert (await ground.godwit("monitor", ground.name, "-c", "stop")).status == 0
        await saved(ground)
        ran = await ground.godwit("restore", FILE, ground.host(here))
        assert ran.status == 0, ran
        assert "paused as it was" in ran.out
        assert ground.run_state(ground.qemus()[here][0].pid) in {"paused", "prelaunch"}
        assert (await ground.godwit("monitor", ground.name, "-c", "cont")).status == 0
    await ground.assert_settled(here)
