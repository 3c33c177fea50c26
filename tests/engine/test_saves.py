"""Saves and restores over the simulator: how they end when nothing happens, and when anything does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest
from savestage import FILE, Scene
from stage import DISK, LONG, simulate

from godwit.core.saves import Compression, Job, Step, Way
from godwit.errors import (
    BusyError,
    GuestCrashedError,
    HostError,
    HostUnreachableError,
    JournalError,
    MonitorCommandError,
    QemuDiedError,
    QemuMissingError,
    RefusedError,
    SaveCancelledError,
    SaveFailedError,
    SaveFileError,
)
from godwit.hosts.fakesaves import FakeSave
from godwit.model import Spec
from godwit.saves import Saves

if TYPE_CHECKING:
    from collections.abc import Callable


def saved(prepare: Callable[[Scene], object] = lambda _: None, **options: object) -> tuple[Scene, Job]:
    async def scenario() -> tuple[Scene, Job]:
        scene = await Scene.make()
        prepare(scene)
        return scene, await scene.save(**options)

    return simulate(scenario)


def test_a_guest_is_saved_and_goes_on_elsewhere() -> None:
    async def scenario() -> None:
        scene = await Scene.make()
        job = await scene.save()
        assert (job.step, job.way, job.error) == (Step.DONE, Way.MAPPED, "")
        assert [step for step, _ in job.steps] == [Step.WRITING, Step.HANDING, Step.CHECKING, Step.DONE]
        assert job.stopped_s is not None
        assert 0 < job.stopped_s < 5
        scene.assert_on(None, [FILE])
        again = await scene.restore("two")
        assert (again.step, again.notes) == (Step.DONE, ())
        scene.assert_on("two", [FILE])
        assert (await scene.inventory.vm("web")).host == "two"
        assert scene.hosts["two"].qemus["web"].capabilities["mapped-ram"] is False

    simulate(scenario)


def test_a_file_is_restored_once() -> None:
    """While the guest runs it is refused for that; later, because its disks have gone on."""

    async def scenario() -> None:
        scene = await Scene.make()
        await scene.save()
        await scene.restore("one")
        second = await scene.restore("two")
        assert second.code == BusyError.code
        scene.assert_on("one", [FILE])
        await scene.service.stop_vm("web", force=True)
        third = await scene.restore("two")
        assert third.code == SaveFileError.code
        assert DISK in third.error
        assert "has changed since: it was" in third.error
        scene.assert_on(None, [FILE])

    simulate(scenario)


def test_a_guest_that_was_paused_is_paused_again() -> None:
    async def scenario() -> None:
        scene = await Scene.make()
        scene.hosts["one"].qemus["web"].stop()
        assert (await scene.save()).step is Step.DONE
        assert (await scene.restore("two")).step is Step.DONE
        assert scene.world.executing("web") == []
        assert scene.paused_on("two")

    simulate(scenario)


def test_what_qemu_does_not_know_is_done_otherwise() -> None:
    def old(scene: Scene) -> None:
        scene.world.refuse("one", "migrate", "unknown migration protocol: file:/images/web.save", times=3)

    scene, job = saved(old)
    assert (job.step, job.way) == (Step.DONE, Way.PIPE)
    assert len(job.notes) == 3
    scene.assert_on(None, [FILE])


def test_compression_goes_through_a_program() -> None:
    scene, job = saved(compression=Compression.ZSTD)
    assert (job.step, job.way) == (Step.DONE, Way.ZSTD)
    scene.assert_on(None, [FILE])


# -- what goes wrong while it is saved -----------------------------------------------------------------------------

FAULTS: Final[dict[str, tuple[Callable[[Scene], object], str]]] = {
    "the disk is full": (lambda s: s.world.fill_disk("one"), SaveFailedError.code),
    "the disk is full when the file gets its name": (
        lambda s: s.at(Step.HANDING, lambda: s.world.fill_disk("one")),
        HostError.code,
    ),
    "QEMU refuses to write": (lambda s: s.world.refuse("one", "migrate"), SaveFailedError.code),
    "QEMU refuses to stop": (lambda s: s.world.refuse("one", "stop"), MonitorCommandError.code),
    "QEMU refuses a capability": (
        lambda s: s.world.refuse("one", "migrate-set-capabilities", times=1),
        MonitorCommandError.code,
    ),
    "somebody takes the name": (
        lambda s: s.at(Step.HANDING, lambda: s.world.saves.update({FILE: FakeSave()})),
        HostError.code,
    ),
    "QEMU is silent for a while": (
        lambda s: s.at(Step.WRITING, lambda: _hang(s, 8.0)),
        "monitor-lost",
    ),
    "the host is out of reach for a while": (
        lambda s: s.at(Step.WRITING, lambda: _cut(s, 14.0)),
        "host-unreachable",
    ),
    "it is cancelled at once": (lambda s: s.at(Step.WRITING, _cancelling(s)), SaveCancelledError.code),
    "somebody lets it run": (
        lambda s: s.at(Step.HANDING, lambda: _let_run(s)),
        SaveFailedError.code,
    ),
}


def _hang(scene: Scene, seconds: float) -> None:
    scene.world.hang("one", "web")
    _later(seconds, lambda: scene.world.wake("one", "web"))


def _cut(scene: Scene, seconds: float) -> None:
    scene.world.cut("one")
    _later(seconds, lambda: scene.world.heal("one"))


def _later(seconds: float, act: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(seconds, act)


def _let_run(scene: Scene) -> None:
    qemu = scene.hosts["one"].qemus["web"]
    qemu._hand_over()
    qemu.cont()


def _cancelling(scene: Scene) -> Callable[[], object]:
    async def cancel() -> None:
        (job,) = await scene.journal.jobs.rows(unfinished=True)
        await Saves(scene.service).cancel(job.id)

    return cancel


@pytest.mark.parametrize("name", FAULTS)
def test_whatever_goes_wrong_the_guest_runs_on_and_no_file_is_left(name: str) -> None:
    prepare, code = FAULTS[name]
    scene, job = saved(prepare)
    assert job.code == code, job
    assert job.step is (Step.CANCELLED if code == SaveCancelledError.code else Step.FAILED)
    scene.assert_on("one", [FILE] if name == "somebody takes the name" else [])
    assert scene.hosts["one"].qemus["web"].capabilities["mapped-ram"] is False


def test_a_qemu_that_dies_is_told_of_and_leaves_no_file() -> None:
    scene, job = saved(lambda s: s.at(Step.WRITING, lambda: s.world.kill("one", "web")))
    assert job.code == GuestCrashedError.code
    scene.assert_on(None, [])


def test_a_file_that_got_its_name_though_nobody_heard_of_it_is_the_guest() -> None:
    async def scenario() -> None:
        scene = await Scene.make()
        files = scene.hosts["one"].saves
        complete = files.complete

        async def lost(path: str, part: str, header: bytes) -> None:
            await complete(path, part, header)
            raise HostUnreachableError("the connection was lost; whether it took effect is unknown")

        files.complete = lost  # type: ignore[method-assign]
        assert (await scene.save()).step is Step.DONE
        scene.assert_on(None, [FILE])
        assert (await scene.restore("two")).step is Step.DONE

    simulate(scenario)


def test_a_journal_that_cannot_be_written_stops_nothing_that_lets_the_guest_run() -> None:
    """From the second step on everything that is to be written down fails, for a while."""

    async def scenario() -> None:
        scene = await Scene.make()
        write, failing = scene.journal.jobs.write, [0]

        async def broken(job: Job, epoch: int, *, durable: bool) -> None:
            if job.step in {Step.HANDING, Step.UNDOING} and failing[0] < 3:
                failing[0] += 1
                raise JournalError("the journal failed: the disk is full")
            await write(job, epoch, durable=durable)

        scene.journal.jobs.write = broken  # type: ignore[method-assign]
        job = await scene.save()
        assert failing[0] == 3
        assert job.code == JournalError.code
        scene.assert_on("one", [])

    simulate(scenario)


def test_what_cannot_be_saved_is_refused_before_anything_is_touched() -> None:
    async def scenario() -> None:
        scene = await Scene.make()
        await scene.save()
        gone = await scene.save()
        assert gone.code == QemuDiedError.code
        await scene.restore("one")
        taken = await scene.save()
        assert taken.code == HostError.code
        assert "is not overwritten" in taken.error
        scene.assert_on("one", [FILE])
        runs = [run for run in scene.world.runs if run.ended is not None]
        assert len(runs) == 1, "the guest did not even stand still"

    simulate(scenario)


def test_one_thing_at_a_time() -> None:
    async def scenario() -> None:
        scene = await Scene.make(LONG)
        await Saves(scene.service).save("web", FILE)
        for asking in (
            lambda: Saves(scene.service).save("web", "/images/other.save"),
            lambda: scene.service.migrate("web", "two"),
            lambda: scene.service.stop_vm("web", force=True),
            lambda: scene.service.start_vm("web"),
        ):
            with pytest.raises(BusyError):
                await asking()

        other = await Scene.make()
        await other.journal.create(Spec("web-1", "web", "one", "two"), 1.0)
        with pytest.raises(BusyError):
            await Saves(other.service).save("web", FILE)

    simulate(scenario)


# -- runners that die ----------------------------------------------------------------------------------------------


def dies(instant: int | tuple[Step, bool]) -> Callable[[Scene], None]:
    """Let the runner die at the so-manieth question that reaches a host, or after or before a step is written down."""

    def prepare(scene: Scene) -> None:
        if isinstance(instant, int):
            scene.at_tick(instant, scene.die)
        else:
            scene.at(instant[0], scene.die, before=instant[1])

    return prepare


SAVE_TICKS: Final = 22
RESTORE_TICKS: Final = 29
STEPS_OF_SAVE: Final = [(step, b) for step in (Step.WRITING, Step.HANDING, Step.CHECKING, Step.DONE) for b in (0, 1)]
STEPS_OF_RESTORE: Final = [(step, b) for step in (Step.LOADING, Step.STARTING, Step.DONE) for b in (0, 1)]


@pytest.mark.parametrize("instant", [*range(1, SAVE_TICKS + 1), *STEPS_OF_SAVE], ids=str)
def test_a_runner_may_die_at_any_instant_of_a_save(instant: int | tuple[Step, bool]) -> None:
    """Either the guest runs on and there is no file, or it is saved whole: then it goes on from there."""

    async def scenario() -> None:
        scene = await Scene.make()
        dies(instant)(scene)
        job = await scene.save()
        assert job.finished
        assert scene.deaths == 1
        if job.step is Step.FAILED:
            scene.assert_on("one", [])
            assert (await scene.save()).step is Step.DONE
        assert scene.world.executing("web") == []
        assert (await scene.restore("two")).step is Step.DONE
        scene.assert_on("two", [FILE])

    simulate(scenario)


# The first question is asked by who types the command.
@pytest.mark.parametrize("instant", [*range(3, RESTORE_TICKS + 1), *STEPS_OF_RESTORE], ids=str)
def test_a_runner_may_die_at_any_instant_of_a_restore(instant: int | tuple[Step, bool]) -> None:
    """Either the guest goes on, or nothing of it is left and the file can be restored again."""

    async def scenario() -> None:
        scene = await Scene.make()
        await scene.save()
        dies(instant)(scene)
        job = await scene.restore("two")
        assert scene.deaths == 1
        if job.step is Step.FAILED:
            scene.assert_on(None, [FILE])
            job = await scene.restore("two")
        assert job.step is Step.DONE, job
        scene.assert_on("two", [FILE])
        assert (await scene.inventory.vm("web")).host == "two"

    simulate(scenario)


def test_a_save_that_nobody_works_on_is_taken_back_by_the_next_one() -> None:
    async def scenario() -> None:
        scene = await Scene.make()
        first = await Saves(scene.service).save("web", FILE)
        while (await scene.journal.jobs.load(first)).step is not Step.WRITING:
            await scene.world.clock.sleep(0.001)
        scene._tasks["web"].cancel()
        await scene.world.clock.sleep(0.01)
        for task in asyncio.all_tasks():
            if "_carry" in str(task.get_coro()):
                task.cancel()
        scene.world.drop_controller()
        second = await scene.save()
        assert (await scene.journal.jobs.load(first)).step is Step.FAILED
        assert second.step is Step.DONE
        assert await scene.service.take_up() == []
        scene.assert_on(None, [FILE])

    simulate(scenario)


# -- what goes wrong when it is restored ---------------------------------------------------------------------------

RESTORES: Final[dict[str, tuple[Callable[[Scene], object], str, str]]] = {
    "a byte is another": (lambda s: s.damage(damaged=True), SaveFileError.code, "part 1 of 1 is not as it was"),
    "QEMU cannot be started": (
        lambda s: s.world.refuse("two", "launch", "qemu: no such thing"),
        QemuDiedError.code,
        "no such thing",
    ),
    "QEMU cannot listen": (lambda s: s.world.refuse("two", "migrate-incoming"), MonitorCommandError.code, "planted"),
    "QEMU will not run it": (lambda s: s.world.refuse("two", "cont"), MonitorCommandError.code, "planted"),
    "the disk is not there": (lambda s: s.world.remove_image(DISK, "two"), SaveFileError.code, f"two has no {DISK}"),
    "it is cancelled": (lambda s: s.at(Step.LOADING, _cancelling(s)), SaveCancelledError.code, "was cancelled"),
}


@pytest.mark.parametrize("name", RESTORES)
def test_a_restore_that_fails_leaves_nothing_but_the_file(name: str) -> None:
    prepare, code, words = RESTORES[name]

    async def scenario() -> None:
        scene = await Scene.make()
        await scene.save()
        prepare(scene)
        job = await scene.restore("two")
        assert (job.code, words in job.error) == (code, True), job
        scene.assert_on(None, [FILE])

    simulate(scenario)


def test_no_copy_is_started_while_nobody_knows_where_the_guest_is() -> None:
    """The host on which it was is silent: that is no proof that it is gone."""

    async def scenario() -> None:
        scene = await Scene.make()
        await scene.save()
        scene.world.cut("one")
        job = await scene.restore("two")
        assert job.code == "host-unreachable"
        scene.assert_on(None, [FILE])
        scene.world.heal("one")
        assert (await scene.restore("two")).step is Step.DONE

    simulate(scenario)


def test_a_guest_that_was_started_from_its_disks_is_not_restored_beside_it() -> None:
    async def scenario() -> None:
        scene = await Scene.make()
        await scene.save()
        await scene.service.start_vm("web")
        job = await scene.restore("two")
        assert job.code == BusyError.code
        scene.assert_on("one", [FILE])

    simulate(scenario)


def test_a_host_without_qemu_is_told_of() -> None:
    async def scenario() -> None:
        scene = await Scene.make(has_qemu=False)
        await scene.save()
        job = await scene.restore("two")
        assert job.code == QemuMissingError.code
        scene.assert_on(None, [FILE])

    simulate(scenario)


def test_a_host_that_is_too_small_is_told_of() -> None:
    async def scenario() -> None:
        scene = await Scene.make(memory=1 << 20)
        await scene.save()
        job = await scene.restore("two")
        assert job.code == RefusedError.code
        assert "MiB left" in job.error

    simulate(scenario)


def test_a_qemu_that_dies_as_it_reads_is_told_of() -> None:
    async def scenario() -> None:
        scene = await Scene.make()
        await scene.save()
        scene.damage(damaged=True)
        job = await scene.restore("two", verify=False)
        assert job.code == SaveFailedError.code
        assert "its QEMU ended" in job.error
        scene.assert_on(None, [FILE])

    simulate(scenario)


def test_content_is_not_read_where_that_is_not_wanted() -> None:
    async def scenario() -> None:
        scene = await Scene.make()
        await scene.save()
        job = await scene.restore("two", verify=False)
        assert job.step is Step.DONE

    simulate(scenario)
