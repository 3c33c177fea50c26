"""The library over the simulator: outcomes, errors, handles, and what cancelling the awaiting task means."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import godwit
from godwit.api.client import Godwit, connect, error_of, error_of_job
from godwit.core.dirtying import LONGER, WINDOWS, curve_of
from godwit.core.learning import PAYLOAD, START
from godwit.core.saves import Job, Step, Way
from godwit.errors import (
    BusyError,
    GuestCrashedError,
    HostError,
    InputError,
    LimboError,
    MigrationCancelledError,
    MigrationFailedError,
    RefusedError,
    SaveCancelledError,
    SaveFileError,
    UnknownVmError,
)
from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock, VirtualTimeLoop, Workload
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakeguest import FakeGuest
from godwit.hosts.fakewatch import FakeWatcher
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.model import (
    DirtyWindow,
    HostRecord,
    Launch,
    MemorySample,
    Outcome,
    OutcomeStatus,
    Owner,
    Policy,
    ProbeRequest,
    RunState,
    Sending,
    Vm,
)
from godwit.model import Way as MoveWay
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.qemu.offline import disks_of
from godwit.service import Service
from godwit.simulation import TaskRunners

if TYPE_CHECKING:
    from pathlib import Path

    from godwit.core.snapshots import DiskSnapshots
    from godwit.ports import Entry, Host, Hypervisor

ADDRESS = "198.18.0.100"
LAUNCH = Launch(("qemu-system-x86_64", "-name", "web1", "-m", "512", "-drive", "file=/images/web1.raw"))


class NoHypervisor(QemuHypervisor):
    """Nothing is defined or adopted here."""

    def define(self, text: str, origin: str, host: object) -> Vm:
        raise NotImplementedError

    async def adopt(self, host: Host, socket: str, name: str | None) -> Vm:
        raise NotImplementedError

    def disks(self, launch: Launch) -> tuple[DiskSnapshots, ...]:
        return disks_of(launch)


class Place:
    """Two simulated hosts with a guest on the first, and the library over them."""

    def __init__(self, world: FakeWorld, service: Service) -> None:
        self.world = world
        self.service = service
        self.g = Godwit(service)

    @classmethod
    async def make(cls, speed: float = 20) -> Place:
        clock = LoopClock(speed=speed)
        world = FakeWorld(clock, seed=5)
        hosts: dict[str, Host] = {name: FakeHost(world, name) for name in ("host1", "host2")}
        world.add_file("/images/web1.raw")
        vm = world.start_guest("host1", Vm("web1", "host1", LAUNCH, control="/run/web1.qmp", address=ADDRESS))
        journal, runners = MemoryJournal(), TaskRunners()
        inventory = MemoryInventory(journal)
        for name in hosts:
            await inventory.put_host(HostRecord(name, f"ssh://{name}"))
        await inventory.put_vm(vm)
        hypervisor: Hypervisor = NoHypervisor()
        runners.service = Service(
            journal=journal,
            inventory=inventory,
            hypervisor=hypervisor,
            runners=runners,
            watcher=FakeWatcher(world, {ADDRESS: "web1"}),
            clock=clock,
            open_host=lambda record: hosts[record.name],
            authority=FakeAuthority(clock),
        )
        return cls(world, runners.service)


async def test_a_guest_moves_and_every_line_is_told() -> None:
    place = await Place.make()
    told: list[Entry] = []
    outcome = await place.g.migrate("web1", "host2", policy=Policy(max_downtime=0.1), on_progress=told.append)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.downtime.client_gap_ms is not None
    assert [entry.sequence for entry in told] == list(range(1, len(told) + 1))
    assert (await place.g.vm("web1")).host == "host2"
    assert (await place.g.view(await place.g.vm("web1"))).state is RunState.RUNNING
    assert (await place.g.view(await place.g.vm("web1"), host="host1")).state is RunState.ABSENT
    assert not place.world.broken_laws


async def test_a_running_guest_is_profiled_and_a_paused_one_is_not() -> None:
    place = await Place.make()
    found = await place.g.profile("web1")
    curve = curve_of(found.windows, found.memory)
    assert (found.vm, found.host, found.windows[-1].seconds) == ("web1", "host1", LONGER)
    assert len(found.windows) == sum(times for _, times in WINDOWS) + 1
    assert curve.write_rate == pytest.approx(Workload().dirty_rate, rel=0.05)
    place.world.hosts["host1"].qemus["web1"].stop()
    with pytest.raises(InputError, match="is paused on host1"):
        await place.g.profile("web1")
    place.world.hosts["host1"].qemus["web1"].exit("killed")
    with pytest.raises(InputError, match="is absent on host1"):
        await place.g.profile("web1")


async def test_what_a_guest_writes_to_its_disks_is_in_its_profile() -> None:
    place = await Place.make()
    assert (await place.g.profile("web1")).disk_writes == 0
    place.world.hosts["host1"].qemus["web1"].workload = Workload(disk_rate=3e6)
    disks = len(place.world.disks_of(place.world.hosts["host1"].qemus["web1"]))
    assert (await place.g.profile("web1")).disk_writes == pytest.approx(3e6 * disks, rel=0.05)


async def test_a_guest_that_is_too_small_to_be_sampled_is_told_of() -> None:
    place = await Place.make()
    qemu = place.world.hosts["host1"].qemus["web1"]
    qemu.workload = Workload(memory=64 << 20, used=32 << 20)
    with pytest.raises(InputError, match="has 64 MiB, and QEMU samples no memory below 128 MiB"):
        await place.g.profile("web1")


async def test_a_qemu_that_measures_whole_seconds_is_not_asked_for_the_same_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def coarse(_: FakeGuest, seconds: float) -> DirtyWindow:
        return DirtyWindow(max(1.0, seconds), 5)

    monkeypatch.setattr(FakeGuest, "dirty_window", coarse)
    found = await (await Place.make()).g.profile("web1")
    assert [window.seconds for window in found.windows] == [1.0, 1.0, 1.0, 2.0]


async def test_who_wants_no_page_looked_at_gets_a_profile_without() -> None:
    g = (await Place.make()).g
    assert (await g.profile("web1")).sample is not None
    found = await g.profile("web1", sample=False)
    assert (found.sample, found.unsampled) == (None, "")


async def test_pages_that_nobody_may_look_at_are_told_of_and_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(_: FakeGuest) -> MemorySample:
        message = "memory of process 7 cannot be looked at"
        raise HostError(message)

    monkeypatch.setattr(FakeGuest, "sample_memory", refused)
    found = await (await Place.make()).g.profile("web1")
    assert found.unsampled == "memory of process 7 cannot be looked at"
    assert found.windows


def test_a_forecast_comes_true_and_the_next_one_knows_the_move() -> None:
    """What the simulated hosts take to start and to hand over is learned; memory and link are known beforehand."""

    async def play() -> None:
        place = await Place.make(speed=1)
        bandwidth = place.world.link("host1", "host2").bandwidth
        with pytest.raises(InputError, match="nobody knows what the link between host1 and host2 carries"):
            await place.g.forecast("web1", "host2")
        first = await place.g.forecast("web1", "host2", link=bandwidth / PAYLOAD)
        assert first.prospect.converges
        outcome = await place.g.migrate("web1", "host2", probe=ProbeRequest(ADDRESS))
        assert outcome.stream_s == pytest.approx(first.prospect.total.likely - START.likely, rel=0.1)
        second = await place.g.forecast("web1", "host1", anew=False)
        assert second.bandwidth.likely == pytest.approx(bandwidth, rel=0.1)
        await place.g.migrate("web1", "host1", probe=ProbeRequest(ADDRESS))
        moves, accuracy = await place.g.forecast_record()
        assert [move.forecast is not None for move in moves] == [True, True]  # what was said of the link is kept
        assert (accuracy.moves, accuracy.gaps) == (2, 2)
        assert accuracy.total_p90 is not None

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(play())


def test_a_guest_that_only_its_changes_can_end_is_moved_within_what_is_permitted() -> None:
    """160 MB/s to 64 MiB over 400 Mbit/s: whole pages never end, and by QEMU's own reckoning neither do changes."""

    async def play() -> None:
        place = await Place.make(speed=1)
        place.world.link("host1", "host2").bandwidth = 50e6
        load = Workload(memory=512 << 20, used=200 << 20, hot_set=64 << 20, dirty_rate=160e6, again=0.02)
        place.world.workloads["web1"] = place.world.hosts["host1"].qemus["web1"].workload = load
        forecast = await place.g.forecast("web1", "host2", link=50e6 / PAYLOAD)
        plain, changes = forecast.prospects[:2]
        assert forecast.chosen == Sending.CHANGES
        assert (plain.converges, changes.converges) == (False, True)
        outcome = await place.g.migrate("web1", "host2", policy=Policy(max_downtime=0.3), probe=ProbeRequest(ADDRESS))
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.downtime.blackout_ms is not None
        assert outcome.downtime.blackout_ms < 300 + 20  # what the devices take is not the limit's
        assert outcome.stream_s == pytest.approx(changes.total.likely - START.likely, rel=0.2)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(play())


async def test_what_cannot_be_forecast_is_refused() -> None:
    place = await Place.make()
    with pytest.raises(InputError, match="only live moves are forecast"):
        await place.g.forecast("web1", "host2", Policy(way=MoveWay.STATIC), link=50e6)
    with pytest.raises(InputError, match="is on host1 already"):
        await place.g.forecast("web1", "host1", link=50e6)
    with pytest.raises(InputError, match="nothing is known of what web1 writes"):
        await place.g.forecast("web1", "host2", link=50e6, anew=False)
    place.world.hosts["host1"].qemus["web1"].stop()
    with pytest.raises(InputError, match="is paused on host1"):
        await place.g.forecast("web1", "host2", link=50e6)


@pytest.mark.parametrize("link", [0.0, -1.0, float("nan"), float("inf")])
async def test_what_no_link_can_carry_is_refused_and_not_kept(link: float) -> None:
    place = await Place.make()
    with pytest.raises(InputError, match="is no rate of a link"):
        await place.g.forecast("web1", "host2", link=link)
    assert await place.service.journal.history.link("host1", "host2") is None
    assert (await place.g.migrate("web1", "host2")).status is OutcomeStatus.COMPLETED


async def test_a_qemu_is_replaced_on_its_host() -> None:
    place = await Place.make()
    findings = await place.g.check_upgrade("web1")
    assert [finding.code for finding in findings] == ["upgrade-by-copy", "upgrade"]
    before = await place.g.vm("web1")
    outcome = await place.g.upgrade("web1", "/usr/local/bin/qemu", probe=ADDRESS)
    after = await place.g.vm("web1")
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.qemus == ("10.0.2", "10.0.2")
    assert (after.host, after.launch.argv[0]) == (before.host, "/usr/local/bin/qemu")
    assert after.control != before.control
    assert (await place.g.view(after)).state is RunState.RUNNING
    assert (await place.g.migrate("web1", "host2")).status is OutcomeStatus.COMPLETED
    assert not place.world.broken_laws


async def test_a_handle_follows_cancels_and_tells_the_end() -> None:
    place = await Place.make()
    migration = await place.g.start("web1", "host2", probe=ADDRESS)
    async for entry in migration.events():
        if entry.data.get("phase") == "precopy":
            break
    assert (await migration.status()).runner_alive
    with pytest.raises(BusyError):
        await place.g.start("web1", "host2")
    await migration.cancel()
    outcome = await migration.outcome()
    assert outcome.status is OutcomeStatus.CANCELLED
    assert isinstance(error_of(outcome), MigrationCancelledError)
    assert [row.spec.id for row in await place.g.history()] == [migration.id]
    assert (await place.g.migration(migration.id).outcome()) == outcome
    assert not place.world.broken_laws


async def test_cancelling_the_task_cancels_the_migration_and_waits_until_the_guest_is_back() -> None:
    place = await Place.make()
    streaming = asyncio.Event()

    def look(entry: Entry) -> None:
        if entry.data.get("phase") == "precopy":
            streaming.set()

    task = asyncio.create_task(place.g.migrate("web1", "host2", on_progress=look))
    await streaming.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # whoever insists does not make it quicker, nor leave half a migration behind
    with pytest.raises(asyncio.CancelledError):
        await task
    (row,) = await place.g.history()
    assert row.outcome is not None
    assert row.outcome.status is OutcomeStatus.CANCELLED
    assert (await place.g.view(await place.g.vm("web1"))).state is RunState.RUNNING
    assert (await place.g.vm("web1")).host == "host1"
    assert not place.world.broken_laws


async def test_a_move_that_does_not_complete_raises_the_error_of_its_end() -> None:
    place = await Place.make()
    place.world.add_file("/images/other.raw", ["host1"])
    place.world.add_file("/images/other.raw", ["host2"])
    other = Vm("other", "host1", Launch(("qemu", "-drive", "file=/images/other.raw")), control="/run/other.qmp")
    await place.service.inventory.put_vm(place.world.start_guest("host1", other))
    with pytest.raises(RefusedError) as refused:
        await place.g.migrate("other", "host2")
    assert "/images/other.raw" in refused.value.message
    assert any(finding.severity == "block" for finding in await place.g.check("other", "host2"))
    with pytest.raises(UnknownVmError):
        await place.g.migrate("nope", "host2")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (OutcomeStatus.FAILED, MigrationFailedError),
        (OutcomeStatus.CANCELLED, MigrationCancelledError),
        (OutcomeStatus.REFUSED, RefusedError),
        (OutcomeStatus.LIMBO, LimboError),
        (OutcomeStatus.GUEST_CRASHED, GuestCrashedError),
    ],
)
def test_each_end_is_an_error_of_its_own(status: OutcomeStatus, kind: type[Exception]) -> None:
    outcome = Outcome("web1-1", "web1", "host1", "host2", status, Owner.UNKNOWN, 1.0, error="why", remedy="mend")
    error = error_of(outcome)
    assert type(error) is kind
    assert error is not None
    assert (error.message, error.remedy) == ("why", "mend")


def test_a_completed_move_is_no_error() -> None:
    done = Outcome("web1-1", "web1", "host1", "host2", OutcomeStatus.COMPLETED, Owner.TARGET, 1.0)
    assert error_of(done) is None


async def test_connect_opens_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODWIT_HOME", str(tmp_path / "elsewhere"))
    async with godwit.connect(tmp_path / "here") as g:
        assert await g.hosts() == []
        assert await g.vms() == []
        assert await g.history() == []
    assert (tmp_path / "here" / "journal.db").exists()
    assert not (tmp_path / "elsewhere").exists()
    async with connect() as g:
        assert await g.hosts() == []
    assert (tmp_path / "elsewhere" / "journal.db").exists()


async def test_a_guest_is_saved_and_restored() -> None:
    place = await Place.make()
    told: list[Job] = []
    kept = await place.g.save("web1", "/images/web1.save", on_progress=told.append)
    assert kept.bytes > 0
    assert kept.stopped_s is not None
    assert [job.step for job in told][-1] is Step.DONE
    assert place.world.executing("web1") == []
    again = await place.g.restore("/images/web1.save", "host2")
    assert (again.vm, again.host) == ("web1", "host2")
    assert place.world.executing("web1") == ["host2"]
    with pytest.raises(BusyError):
        await place.g.restore("/images/web1.save", "host1")
    await place.g.stop_vm("web1", force=True)
    with pytest.raises(SaveFileError, match="has changed since"):
        await place.g.restore("/images/web1.save", "host1", verify=False)


async def test_an_unknown_compression_cannot_be_meant() -> None:
    place = await Place.make()
    with pytest.raises(ValueError, match="rar"):
        await place.g.save("web1", "/images/web1.save", compress="rar")
    assert (await place.g.save("web1", "/images/web1.save", compress="gzip")).way is Way.GZIP


async def test_cancelling_the_task_that_saves_lets_the_guest_run_on() -> None:
    place = await Place.make()
    writing = asyncio.Event()

    def told(job: Job) -> None:
        if job.step is Step.WRITING:
            writing.set()

    place.world.workloads["web1"] = place.world.hosts["host1"].qemus["web1"].workload = Workload(used=2000 << 20)
    saving = asyncio.create_task(place.g.save("web1", "/images/web1.save", on_progress=told))
    await writing.wait()
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert place.world.executing("web1") == ["host1"]
    assert place.world.saves == {}
    (job,) = await place.service.journal.jobs.rows()
    assert isinstance(error_of_job(job), SaveCancelledError)
