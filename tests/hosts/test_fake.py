"""The simulated hosts: the contract of all hosts, then what only a simulation can show."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from contract import (
    Bench,
    GuestContract,
    MigrationContract,
    MonitorContract,
    SiblingContract,
    becomes,
    seen,
    streaming,
)
from hostcontract import HostContract

from godwit.errors import (
    HostError,
    HostUnreachableError,
    MonitorBusyError,
    MonitorCommandError,
    MonitorLostError,
    QemuDiedError,
    QemuMissingError,
    RemoteCommandError,
)
from godwit.hosts.fake import LONG_QUEUE, FakeHost, FakeWorld, LoopClock, Workload
from godwit.hosts.fakewatch import FakeWatcher
from godwit.measure.gaps import client_view
from godwit.measure.series import ProbeSeries
from godwit.model import Launch, ProbeRequest, RunState, StreamStatus, Tap, Vm
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.ports import Guest, Host

DISK, PRIVATE = "/images/web.raw", "/images/private.raw"
VM = Vm(
    name="web",
    host="one",
    launch=Launch(("qemu-system-x86_64", "-drive", f"file={DISK},if=virtio"), taps=(Tap("tap0", "br0"),)),
    control="/run/web/control.sock",
    observe="/run/web/observe.sock",
    address="198.18.7.1",
)


VIRTUAL_TIME = True


@pytest.fixture
def world() -> FakeWorld:
    made = FakeWorld(LoopClock(), seed=3)
    FakeHost(made, "one")
    FakeHost(made, "two", clock_offset=5.0)
    made.add_file(DISK)
    made.add_file(PRIVATE, ["one"])
    return made


@pytest.fixture
def bench(world: FakeWorld) -> Iterator[Bench]:
    async def tamper() -> None:
        file = world.file(PRIVATE, "one")
        assert file is not None
        world.disks.tamper(file.inode)

    yield Bench(world.hosts["one"], world.hosts["two"], VM, DISK, PRIVATE, tamper)
    assert not world.broken_laws


def as_ports(world: FakeWorld) -> tuple[Host, Guest]:
    """Let the type checker see that the simulation implements the ports."""
    return world.hosts["one"], world.hosts["one"].monitors()[0]


class TestFakeGuest(GuestContract): ...


class TestFakeSiblings(SiblingContract): ...


class TestFakeMonitor(MonitorContract): ...


class TestFakeMigration(MigrationContract): ...


class TestFakeHost(HostContract): ...


async def moved(bench: Bench, *, limit_ms: int, lease: int | None = None) -> tuple[float, float]:
    """Move the guest by hand; return the blackout and what QEMU says of it, in milliseconds."""
    async with bench.both(limit_ms=limit_ms) as (source, target, uri):
        if lease is not None:
            assert await bench.source.shorten_send_queue("test", lease)
        of_source, of_target = source.events(), target.events()
        await source.migrate(uri)
        stopped = await seen(of_source, "STOP")
        await asyncio.gather(seen(of_source, "MIGRATION", "completed"), seen(of_target, "MIGRATION", "completed"))
        await target.resume()
        resumed = await seen(of_target, "RESUME")
        result = await source.migration_result()
        await source.quit()
    return (resumed.received - stopped.received) * 1000, result["downtime"]


# -- the stream --------------------------------------------------------------------------------------------------------


async def test_the_downtime_limit_is_spent(bench: Bench) -> None:
    long, said = await moved(bench, limit_ms=300, lease=65536)

    assert 200 < long < 320
    assert said == pytest.approx(long, abs=12)


async def test_a_low_limit_makes_a_short_blackout(bench: Bench) -> None:
    short, _ = await moved(bench, limit_ms=10, lease=65536)

    assert short < 25


async def test_a_long_send_queue_lengthens_the_blackout_and_qemu_does_not_say_so(bench: Bench) -> None:
    long, said = await moved(bench, limit_ms=10)

    queue_ms = LONG_QUEUE / 50_000_000 * 1000
    assert long > queue_ms
    assert said < 20


async def test_a_guest_that_writes_faster_than_the_link_never_ends(bench: Bench, world: FakeWorld) -> None:
    world.workloads["web"] = Workload(hot_set=64 * MIB, dirty_rate=160.0 * MIB)
    async with bench.both(limit_ms=20) as (source, _, uri):
        await source.migrate(uri)
        await asyncio.sleep(60)
        sample = await source.sample()

        assert sample is not None
        assert sample.iteration > 10
        assert sample.dirty_rate > sample.rate
        assert sample.expected_downtime is not None
        assert (await source.view()).state is RunState.RUNNING

        await source.set_parameters({"downtime-limit": 2000})
        await becomes(source.view, RunState.POSTMIGRATE)


async def test_a_cut_link_says_nothing_and_goes_on_when_it_is_healed(bench: Bench, world: FakeWorld) -> None:
    async with bench.both() as (source, _, uri):
        await source.migrate(uri)
        await streaming(source)
        world.cut("one", "two")
        before = await source.sample()
        await asyncio.sleep(120)
        after = await source.sample()

        assert before is not None
        assert after is not None
        assert after.transferred == before.transferred
        assert after.rate == 0
        assert (await source.view()).stream is StreamStatus.ACTIVE

        world.heal("one", "two")
        await becomes(source.view, RunState.POSTMIGRATE)


async def test_the_link_decides_how_long_it_takes(bench: Bench, world: FakeWorld) -> None:
    world.shape("one", "two", 1_000_000)
    async with bench.both() as (source, _, uri):
        await source.migrate(uri)
        await asyncio.sleep(2)
        sample = await source.sample()
        world.shape("one", "two", 1_000_000_000)
        await becomes(source.view, RunState.POSTMIGRATE)

    assert sample is not None
    assert sample.transferred == pytest.approx(2_000_000, rel=0.1)


async def test_the_same_seed_tells_the_same_story() -> None:
    async def story(seed: int) -> list[tuple[str, float]]:
        made = FakeWorld(LoopClock(), seed=seed)
        hosts = [FakeHost(made, name) for name in ("one", "two")]
        made.add_file(DISK)
        await moved(Bench(hosts[0], hosts[1], VM, DISK, PRIVATE), limit_ms=20)
        return [(run.host, run.began) for run in made.runs]

    first, again, other = await story(1), await story(1), await story(2)

    assert first == again
    assert first != other


# -- the law is not prevented, but written down ------------------------------------------------------------------------


async def test_two_running_copies_are_written_down(world: FakeWorld) -> None:
    bench = Bench(world.hosts["one"], world.hosts["two"], VM, DISK, PRIVATE)
    async with bench.both() as (source, target, uri):
        await source.migrate(uri)
        await becomes(source.view, RunState.POSTMIGRATE)
        await target.resume()
        await source.resume()

    assert world.executing("web") == ["two", "one"]
    assert ["two writers" in broken for broken in world.broken_laws] == [True]


async def test_a_stale_copy_that_runs_is_written_down(world: FakeWorld) -> None:
    bench = Bench(world.hosts["one"], world.hosts["two"], VM, DISK, PRIVATE)
    async with bench.both() as (source, target, uri):
        await source.migrate(uri)
        await becomes(source.view, RunState.POSTMIGRATE)
        await source.resume()
        await source.pause()
        await target.resume()

    assert ["older than its disks" in broken for broken in world.broken_laws] == [True]


# -- faults ------------------------------------------------------------------------------------------------------------


async def test_a_killed_source_takes_an_incomplete_target_with_it(bench: Bench, world: FakeWorld) -> None:
    async with bench.both(limit_ms=1, bandwidth=MIB) as (source, target, uri):
        of_source, of_target = source.events(), target.events()
        await source.migrate(uri)
        await streaming(source)

        world.kill("one", "web")

        await seen(of_source, "LOST")
        await seen(of_target, "LOST")
    assert (await bench.source.observe(bench.vm)).state is RunState.ABSENT
    assert (await bench.target.observe(bench.vm)).state is RunState.ABSENT
    assert world.executing("web") == []


async def test_a_host_that_crashes_is_silent_and_its_guests_are_gone(bench: Bench, world: FakeWorld) -> None:
    await bench.start()

    world.crash_host("one")

    assert (await bench.source.observe(bench.vm)).state is RunState.UNREACHABLE
    with pytest.raises(HostUnreachableError):
        await bench.source.facts()
    world.restore_host("one")
    assert (await bench.source.observe(bench.vm)).state is RunState.ABSENT


async def test_a_stopped_qemu_is_silent_and_obeys_later(bench: Bench, world: FakeWorld) -> None:
    await bench.start()
    async with bench.attached(bench.source) as guest:
        world.hang("one", "web")
        assert world.executing("web") == []
        with pytest.raises(MonitorLostError, match="did not answer"):
            await guest.pause()
        assert (await bench.source.observe(bench.vm)).state is RunState.UNREACHABLE

        world.wake("one", "web")
        assert (await guest.view()).state is RunState.PAUSED

    world.hang("one", "web")
    with pytest.raises(MonitorBusyError):
        await bench.source.attach(bench.vm)
    await bench.source.destroy(bench.vm)
    assert (await bench.source.observe(bench.vm)).state is RunState.ABSENT


async def test_a_stopped_source_learns_of_a_dead_target_when_it_goes_on(bench: Bench, world: FakeWorld) -> None:
    async with bench.both() as (source, _, uri):
        events = source.events()
        await source.migrate(uri)
        await seen(events, "STOP")
        world.hang("one", "web")
        await bench.target.destroy(bench.vm)
        assert world.executing("web") == []

        world.wake("one", "web")

        await seen(events, "MIGRATION", "failed")
        assert world.executing("web") == ["one"]


async def test_what_was_said_behind_a_short_cut_arrives(bench: Bench, world: FakeWorld) -> None:
    async with bench.both() as (source, _, uri):
        events = source.events()
        await source.migrate(uri)
        await streaming(source)
        world.cut("one")
        await asyncio.sleep(4)
        world.heal("one")

        await seen(events, "STOP")
        await seen(events, "MIGRATION", "completed")


async def test_a_long_cut_loses_the_connection_and_not_the_guest(bench: Bench, world: FakeWorld) -> None:
    await bench.start()
    guest = await bench.source.attach(bench.vm)
    events = guest.events()

    world.cut("one")

    await seen(events, "LOST")
    with pytest.raises(MonitorLostError):
        await guest.view()
    assert world.executing("web") == ["one"]
    world.heal("one")
    async with bench.attached(bench.source) as again:
        assert (await again.view()).state is RunState.RUNNING


async def test_planted_refusals(bench: Bench, world: FakeWorld) -> None:
    world.refuse("one", "launch", "no room", times=1)
    with pytest.raises(QemuDiedError, match="no room"):
        await bench.source.launch(bench.vm, bench.vm.launch)
    await bench.start()

    world.refuse("one", "stop", "not now", times=1)
    async with bench.attached(bench.source) as guest:
        with pytest.raises(MonitorCommandError, match="not now"):
            await guest.pause()
        await guest.pause()


async def test_answers_come_late_when_told_so(bench: Bench, world: FakeWorld) -> None:
    await bench.start()
    world.delay("one", 2.0)
    began = world.clock.now()

    await bench.source.facts()

    assert world.clock.now() - began == pytest.approx(2.0, abs=0.01)


async def test_a_full_disk_takes_no_token(bench: Bench, world: FakeWorld) -> None:
    world.fill_disk("one")

    with pytest.raises(RemoteCommandError, match="No space left"):
        await bench.source.plant_token(DISK, "token")


async def test_another_file_of_the_same_name_does_not_show_the_token(world: FakeWorld) -> None:
    world.add_file("/images/two-files.raw", ["one"])
    world.add_file("/images/two-files.raw", ["two"])
    one, two = world.hosts["one"], world.hosts["two"]

    await one.plant_token("/images/two-files.raw", "token")

    assert (await two.find_token("/images/two-files.raw"))[0] is None
    assert (await one.find_token("/images/two-files.raw"))[1] != (await two.find_token("/images/two-files.raw"))[1]


async def test_what_a_host_lacks_is_named(world: FakeWorld) -> None:
    bare = FakeHost(world, "bare", bridges=(), has_qemu=False, may_shorten_send_queue=False)

    assert (await bare.facts()).qemu is None
    assert not await bare.shorten_send_queue("lease", 65536)
    with pytest.raises(HostError, match="br0"):
        await bare.prepare_launch(VM, VM.launch)
    with pytest.raises(QemuMissingError):
        await bare.launch(VM, VM.launch)


async def test_a_dead_controller_frees_the_monitors_and_keeps_the_leases(bench: Bench, world: FakeWorld) -> None:
    await bench.start()
    await bench.source.shorten_send_queue("lease", 65536)
    guest = await bench.source.attach(bench.vm)
    events = guest.events()

    world.drop_controller()

    await seen(events, "LOST")
    assert world.hosts["one"].leases == {"lease": 65536}
    async with bench.attached(bench.source) as again:
        assert as_ports(world)[1] is again


async def test_a_guest_with_one_monitor_cannot_be_observed_while_it_is_held(world: FakeWorld) -> None:
    bench = Bench(world.hosts["one"], world.hosts["two"], replace(VM, observe=None), DISK, PRIVATE)
    await bench.start()

    async with bench.attached(bench.source):
        view = await bench.source.observe(bench.vm)

    assert view.state is RunState.UNREACHABLE
    assert view.pid is not None


# -- the outside view --------------------------------------------------------------------------------------------------


async def test_an_outside_client_sees_the_blackout(bench: Bench, world: FakeWorld) -> None:
    watch = await FakeWatcher(world, {"198.18.7.1": "web"}).start(ProbeRequest("198.18.7.1"))
    blackout_ms, _ = await moved(bench, limit_ms=50, lease=65536)
    run = world.runs[-1]

    watch = replace(watch, began=world.runs[0].began)  # the guest started after the probe
    assert await watch.replied_since(run.began, 1.0)
    await asyncio.sleep(0.5)
    stopped = world.runs[-2].ended
    result = await watch.finish(stopped, run.began)

    assert result.client_gap_ms == pytest.approx(blackout_ms, abs=5)
    series = ProbeSeries.from_json(result.series)
    assert series.lost == result.lost > 0
    gap = client_view(series, stopped, run.began).client_gap_s
    assert gap is not None
    assert gap * 1000 == pytest.approx(result.client_gap_ms, abs=1)


async def test_nobody_answers_where_nobody_executes(bench: Bench, world: FakeWorld) -> None:
    await bench.start()
    await asyncio.sleep(1)
    world.kill("one", "web")
    watch = await FakeWatcher(world, {"198.18.7.1": "web"}).start(ProbeRequest("198.18.7.1"))

    assert not await watch.replied_since(world.clock.now(), 1.0)


# -- time --------------------------------------------------------------------------------------------------------------


async def test_time_can_run_faster() -> None:
    clock = LoopClock(speed=10)
    loop = asyncio.get_running_loop()
    began, real = clock.now(), loop.time()

    await clock.sleep(5)

    assert clock.now() - began == pytest.approx(5)
    assert loop.time() - real == pytest.approx(0.5)


async def test_a_guest_that_is_off_needs_a_reset_and_its_qemu_ends_with_it_unless_it_was_told_to_outlive_it(
    bench: Bench,
) -> None:
    await bench.start()
    async with bench.attached(bench.source) as guest:
        events = guest.events()
        await guest.keep_after_power_off(keep=True)
        await guest.powerdown()
        await seen(events, "STOP")
        assert (await guest.view()).state is RunState.POWERED_OFF
        with pytest.raises(MonitorCommandError, match="Resetting the Virtual Machine is required"):
            await guest.resume()
        await guest.reset()
        assert (await guest.view()).state is RunState.PAUSED
        await guest.resume()
        await guest.keep_after_power_off(keep=False)
        await guest.powerdown()
        await seen(events, "LOST")
    assert (await bench.source.observe(bench.vm)).state is RunState.ABSENT


async def test_a_second_process_does_not_get_the_lock_of_a_disk(bench: Bench) -> None:
    await bench.start()
    await bench.target.prepare_launch(bench.vm, bench.vm.launch)
    with pytest.raises(QemuDiedError, match="lock"):
        await bench.target.launch(bench.vm, bench.vm.launch, paused=True)
    await bench.source.destroy(bench.vm)
    await bench.target.launch(bench.vm, bench.vm.launch, paused=True)
