"""What every kind of host does, whatever stands behind it: one suite, run over the simulator and over real QEMU.

A test file derives its classes from these and gives the fixture `bench`: two hosts that share a disk, and a guest that
can be started on them and that a stream of 1 MiB/s does not finish moving. Behaviour only; deadlines are generous.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from godwit.core.upgrading import TAKER
from godwit.errors import (
    BusyError,
    HypervisorError,
    MonitorBusyError,
    MonitorCommandError,
    MonitorLostError,
)
from godwit.model import MIGRATION_PORTS, RunState, StreamStatus
from godwit.qemu.beside import beside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from godwit.model import GuestView, Launch, Vm
    from godwit.ports import Guest, GuestEvent, Host

WAIT = 20.0
"""Seconds within which anything must have happened."""


async def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Two hosts and a guest. `disk` is shared by both; `private` is the path of a file that only the source has.

    `tamper` writes to that file, as somebody who wants to leave no trace.
    """

    source: Host
    target: Host
    vm: Vm
    disk: str
    private: str
    tamper: Callable[[], Awaitable[None]] = nothing

    async def start(self) -> None:
        """Let the guest run on the source."""
        await self.source.prepare_launch(self.vm, self.vm.launch)
        await self.source.launch(self.vm, self.vm.launch)

    @asynccontextmanager
    async def attached(self, host: Host) -> AsyncIterator[Guest]:
        """Hold the guest's monitor on a host."""
        guest = await host.attach(self.vm)
        try:
            yield guest
        finally:
            await guest.close()

    @asynccontextmanager
    async def both(self, *, limit_ms: int = 300, bandwidth: int = 0) -> AsyncIterator[tuple[Guest, Guest, str]]:
        """Run the guest on the source, let the target wait for the stream; yields both monitors and the URI."""
        await self.start()
        facts = await self._facts()
        await self.target.prepare_launch(self.vm, facts)
        await self.target.launch(self.vm, facts, incoming=True)
        async with self.attached(self.source) as source, self.attached(self.target) as target:
            for guest in (source, target):
                await guest.set_capabilities({"events": True, "return-path": True})
            await source.set_parameters({"downtime-limit": limit_ms, "max-bandwidth": bandwidth})
            address = (await self.target.facts()).migration_address
            uri = await target.listen(f"tcp:{address}:{await self.target.free_port()},to={MIGRATION_PORTS[-1]}")
            yield source, target, uri

    async def _facts(self) -> Launch:
        async with self.attached(self.source) as guest:
            return (await guest.facts()).launch


async def seen(events: AsyncIterator[GuestEvent], kind: str, status: str = "") -> GuestEvent:
    """Wait for an event."""
    async with asyncio.timeout(WAIT):
        async for event in events:
            if event.kind == kind and event.status.startswith(status):
                return event
    pytest.fail(f"the events ended without {kind} {status}")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again until something holds: not everything that a host does is an event."""
    async with asyncio.timeout(WAIT):
        while not await holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.02)


async def becomes(view: Callable[[], Awaitable[GuestView]], state: RunState) -> None:
    """Wait until the guest is in a state."""

    async def there() -> bool:
        return (await view()).state is state

    await until(there)


async def streaming(guest: Guest) -> None:
    """Wait until the stream has sent something."""

    async def flows() -> bool:
        sample = await guest.sample()
        return sample is not None and sample.transferred > 0

    await until(flows)


async def failed(guest: Guest) -> None:
    """Wait until the guest says that its stream has failed."""

    async def said() -> bool:
        return (await guest.view()).stream is StreamStatus.FAILED

    await until(said)


class GuestContract:
    """How a guest lives on a host."""

    async def test_a_guest_that_was_never_started_is_absent(self, bench: Bench) -> None:
        assert (await bench.source.observe(bench.vm)).state is RunState.ABSENT

    async def test_a_launched_guest_runs(self, bench: Bench) -> None:
        await bench.source.prepare_launch(bench.vm, bench.vm.launch)
        pid = await bench.source.launch(bench.vm, bench.vm.launch)

        async with bench.attached(bench.source) as guest:
            view = await guest.view()
            facts = await guest.facts()

        assert view.state is RunState.RUNNING
        assert view.stream is StreamStatus.NONE
        assert facts.pid == pid
        assert (await bench.source.observe(bench.vm)).pid in {pid, None}

    async def test_a_guest_that_waits_for_a_stream_cannot_run(self, bench: Bench) -> None:
        await bench.target.prepare_launch(bench.vm, bench.vm.launch)
        await bench.target.launch(bench.vm, bench.vm.launch, incoming=True)

        async with bench.attached(bench.target) as guest:
            await guest.resume()
            assert (await guest.view()).state is RunState.INCOMING

    async def test_a_guest_that_is_launched_paused_stands_still_until_it_is_told_to_run(self, bench: Bench) -> None:
        await bench.target.prepare_launch(bench.vm, bench.vm.launch)
        await bench.target.launch(bench.vm, bench.vm.launch, paused=True)

        async with bench.attached(bench.target) as guest:
            events = guest.events()
            view = await guest.view()
            assert (view.state, view.stream) == (RunState.PAUSED, StreamStatus.NONE)
            await guest.resume()
            await seen(events, "RESUME")
            await becomes(guest.view, RunState.RUNNING)

    async def test_a_guest_can_be_reset_while_its_qemu_is_told_to_outlive_it(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            await guest.keep_after_power_off(keep=True)
            await guest.reset()
            assert (await guest.view()).state is RunState.RUNNING
            await guest.pause()
            await guest.reset()
            await becomes(guest.view, RunState.PAUSED)
            await guest.resume()
            await becomes(guest.view, RunState.RUNNING)
            await guest.keep_after_power_off(keep=False)

    async def test_what_a_guest_changes_is_measured(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            memory = (await guest.facts()).memory
            window = await guest.dirty_window(0.1)
            assert 0.1 <= window.seconds <= 1.0
            assert 0 <= window.unique <= memory

    async def test_pages_of_a_guest_are_looked_at(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            found = await guest.sample_memory()

        assert 0 < found.zero < found.pages
        assert 0 <= found.changed <= found.pages - found.zero
        assert (found.again is None) == (found.changed == 0)
        assert found.compressed is not None
        assert 0 < found.compressed <= 1.1
        assert (found.compressed_again is None) == (found.changed == 0)
        assert 0.1 < found.seconds < 5

    async def test_what_its_cpus_work_is_counted(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            before = await guest.cpu_times()
            await asyncio.sleep(0.5)
            after = await guest.cpu_times()

        assert len(before) == len(after) > 0
        assert all(0 <= late - early < 30 for early, late in zip(before, after, strict=True))

    async def test_what_it_writes_to_its_disks_is_counted(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            before = await guest.disk_writes()
            assert 0 <= before <= await guest.disk_writes()

    async def test_pause_and_resume_say_so(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            events = guest.events()
            await guest.pause()
            await seen(events, "STOP")
            assert (await guest.view()).state is RunState.PAUSED
            await guest.resume()
            resumed = await seen(events, "RESUME")

        assert resumed.host_time is not None

    async def test_lines_for_people_are_answered_in_qemus_words(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            said = [await guest.human(line) for line in ("info status", "stop", "info status", "nonsense", "")]

        assert said == ["VM status: running\n", "", "VM status: paused\n", "unknown command: 'nonsense'\n", ""]

    async def test_facts_describe_how_to_start_the_guest_elsewhere(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            facts = await guest.facts()

        assert facts.vm == bench.vm.name
        assert facts.launch.argv
        assert facts.memory > 0
        assert bench.disk in {disk.path for disk in facts.disks}
        assert not any(word == "-incoming" for word in facts.launch.argv)

    async def test_a_destroyed_guest_is_gone_and_may_be_destroyed_again(self, bench: Bench) -> None:
        await bench.start()

        await bench.source.destroy(bench.vm)
        await bench.source.destroy(bench.vm)

        assert (await bench.source.observe(bench.vm)).state is RunState.ABSENT

    async def test_quit_ends_the_process_and_the_events(self, bench: Bench) -> None:
        await bench.start()
        guest = await bench.source.attach(bench.vm)
        events = guest.events()

        await guest.quit()

        await seen(events, "LOST")
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        await becomes(lambda: bench.source.observe(bench.vm), RunState.ABSENT)
        with pytest.raises(MonitorLostError):
            await guest.view()

    async def test_the_name_of_a_running_guest_is_taken(self, bench: Bench) -> None:
        await bench.start()

        with pytest.raises(BusyError):
            await bench.source.prepare_launch(bench.vm, bench.vm.launch)


class MonitorContract:
    """What an open monitor is."""

    async def test_a_monitor_serves_one_client(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source):
            with pytest.raises(MonitorBusyError):
                await bench.source.attach(bench.vm)

        async with bench.attached(bench.source) as guest:
            assert (await guest.view()).state is RunState.RUNNING

    async def test_a_guest_with_two_monitors_is_observed_while_one_is_held(self, bench: Bench) -> None:
        assert bench.vm.observe is not None
        await bench.start()

        async with bench.attached(bench.source):
            assert (await bench.source.observe(bench.vm)).state is RunState.RUNNING

    async def test_there_is_no_monitor_where_there_is_no_guest(self, bench: Bench) -> None:
        with pytest.raises(HypervisorError):
            await bench.source.attach(bench.vm)

    async def test_events_are_heard_from_the_call_on(self, bench: Bench) -> None:
        await bench.start()

        async with bench.attached(bench.source) as guest:
            first = guest.events()
            await guest.pause()
            await seen(first, "STOP")
            second = guest.events()
            await guest.resume()
            assert (await anext(second)).kind == "RESUME"


class MigrationContract:
    """How a guest moves, and how it stays."""

    async def test_a_guest_moves_and_both_sides_say_so(self, bench: Bench) -> None:
        async with bench.both() as (source, target, uri):
            of_source, of_target = source.events(), target.events()

            await source.migrate(uri)
            await asyncio.gather(seen(of_source, "MIGRATION", "completed"), seen(of_target, "MIGRATION", "completed"))

            await becomes(source.view, RunState.POSTMIGRATE)  # a moment after its stream's end
            here, there = await source.view(), await target.view()
            assert here.stream is StreamStatus.COMPLETED
            assert (there.state, there.stream) == (RunState.PAUSED, StreamStatus.COMPLETED)

            await target.resume()
            await seen(of_target, "RESUME")
            await target.announce()
            result = await source.migration_result()
            assert result["transferred"] > 0
            assert result["total-time"] > 0
            assert result["passes"] >= 1
            await source.quit()

        assert (await bench.source.observe(bench.vm)).state is RunState.ABSENT
        assert (await bench.target.observe(bench.vm)).state is RunState.RUNNING

    async def test_a_stopped_source_says_stop_before_it_has_completed(self, bench: Bench) -> None:
        async with bench.both() as (source, _, uri):
            events = source.events()
            await source.migrate(uri)

            words: list[str] = []
            async with asyncio.timeout(WAIT):
                async for event in events:
                    words.append(event.status or event.kind)
                    if event.status == "completed":
                        break

            assert words.index("STOP") < words.index("completed")
            assert "active" in words
            assert "MIGRATION_PASS" in words

    async def test_a_source_that_has_handed_over_can_be_taken_back(self, bench: Bench) -> None:
        """As long as the target was not told to run: what a rollback behind a completed stream rests on."""
        async with bench.both() as (source, _, uri):
            events = source.events()
            await source.migrate(uri)
            await seen(events, "MIGRATION", "completed")
            await becomes(source.view, RunState.POSTMIGRATE)

            await bench.target.destroy(bench.vm)
            await source.resume()

            await becomes(source.view, RunState.RUNNING)

    async def test_a_stream_has_counters_while_it_runs(self, bench: Bench) -> None:
        async with bench.both(limit_ms=1, bandwidth=2 * 1024 * 1024) as (source, target, uri):
            assert await source.sample() is None
            await source.migrate(uri)
            await streaming(source)
            first = await source.sample()
            await asyncio.sleep(0.3)
            second = await source.sample()

            assert first is not None
            assert second is not None
            assert second.transferred > first.transferred
            assert second.at > first.at
            assert 0 <= second.remaining <= second.total
            assert second.iteration >= 1
            assert await target.sample() is None

    async def test_a_cancelled_stream_leaves_the_guest_where_it_runs(self, bench: Bench) -> None:
        async with bench.both(limit_ms=1, bandwidth=1024 * 1024) as (source, _, uri):
            events = source.events()
            await source.migrate(uri)
            await streaming(source)

            await source.cancel_migration()

            await seen(events, "MIGRATION", "cancelled")
            view = await source.view()
            assert (view.state, view.stream) == (RunState.RUNNING, StreamStatus.CANCELLED)
        await becomes(lambda: bench.target.observe(bench.vm), RunState.ABSENT)

    async def test_a_target_that_dies_fails_the_stream_and_not_the_guest(self, bench: Bench) -> None:
        async with bench.both(limit_ms=1, bandwidth=1024 * 1024) as (source, target, uri):
            of_source, of_target = source.events(), target.events()
            await source.migrate(uri)
            await streaming(source)

            await bench.target.destroy(bench.vm)

            await seen(of_target, "LOST")
            await seen(of_source, "MIGRATION", "failed")
            await becomes(source.view, RunState.RUNNING)

    async def test_what_cannot_change_during_a_stream_is_refused_and_the_rest_is_not(self, bench: Bench) -> None:
        async with bench.both(limit_ms=1, bandwidth=1024 * 1024) as (source, _, uri):
            await source.migrate(uri)
            await streaming(source)

            with pytest.raises(MonitorCommandError, match="in progress"):
                await source.set_capabilities({"return-path": False})
            with pytest.raises(MonitorCommandError, match="in progress"):
                await source.migrate(uri)
            await source.set_parameters({"downtime-limit": 2000, "max-bandwidth": 0})
            await becomes(source.view, RunState.POSTMIGRATE)

    async def test_a_stream_to_nowhere_fails_and_the_guest_runs_on(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            await guest.set_capabilities({"events": True})
            address = (await bench.target.facts()).migration_address
            port = await bench.target.free_port()

            await guest.migrate(f"tcp:{address}:{port}")

            await failed(guest)
            view = await guest.view()
            assert view.state is RunState.RUNNING
            assert view.detail

    async def test_an_unknown_capability_is_refused(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            with pytest.raises(MonitorCommandError):
                await guest.set_capabilities({"teleport": True})
            features = await guest.features()

        assert {"events", "return-path"} <= features.capabilities
        assert {"downtime-limit", "max-bandwidth"} <= features.parameters
        assert {"migrate", "cont"} <= features.commands


class SiblingContract:
    """Two processes of one guest on one host, of which the second takes the first one's memory as it stands."""

    @staticmethod
    def pair(bench: Bench) -> tuple[Vm, Vm]:
        """Return the guest under its names, with memory that can be taken, and as a second process beside them."""
        memory = ("-object", "memory-backend-memfd,id=pc.ram,size=64M,share=on")
        sharing = ("-machine", "memory-backend=pc.ram,aux-ram-share=on")
        launch = replace(bench.vm.launch, argv=(*bench.vm.launch.argv, *memory, *sharing))
        before = replace(bench.vm, launch=launch)
        after = beside(before, launch, launch.argv[0])
        return replace(before, sibling=after.control), replace(after, sibling=before.control)

    @asynccontextmanager
    async def waiting(self, bench: Bench) -> AsyncIterator[tuple[Vm, Vm, str]]:
        """Let the guest run, and a second process wait for its memory; yields both names and where it waits."""
        before, after = self.pair(bench)
        path = f"{after.control}{TAKER}"
        try:
            await bench.source.prepare_launch(before, before.launch)
            await bench.source.launch(before, before.launch)
            assert (await bench.source.observe(after)).state is RunState.ABSENT
            await bench.source.prepare_launch(after, after.launch)
            await bench.source.launch_taker(after, after.launch, path)
            yield before, after, path
        finally:
            for vm in (after, before):
                await bench.source.destroy(vm)

    async def test_memory_is_handed_over_and_either_process_can_be_ended_alone(self, bench: Bench) -> None:
        host = bench.source
        async with self.waiting(bench) as (before, after, path):
            old = await host.attach(before)
            events = old.events()
            assert await old.hand_over_hindrances() == ()
            await old.set_capabilities({"events": True, "return-path": True})
            await old.hand_over(path)
            new = await host.attach(after, patience=WAIT)
            await seen(events, "STOP")
            await becomes(new.view, RunState.PAUSED)
            await becomes(old.view, RunState.POSTMIGRATE)
            assert (await new.view()).stream is StreamStatus.COMPLETED
            await new.resume()
            await becomes(new.view, RunState.RUNNING)
            assert (await host.observe(before)).state is RunState.POSTMIGRATE
            await old.close()
            await host.destroy(before)
            assert (await host.observe(before)).state is RunState.ABSENT
            assert (await host.observe(after)).state is RunState.RUNNING
            assert (await new.view()).state is RunState.RUNNING
            await new.close()

    async def test_a_process_that_waits_for_memory_is_no_absent_one_and_ends_alone(self, bench: Bench) -> None:
        host = bench.source
        async with self.waiting(bench) as (before, after, _):
            assert (await host.observe(after)).state is RunState.UNREACHABLE
            with pytest.raises(HypervisorError):
                await host.attach(after)
            await host.destroy(after)
            assert (await host.observe(after)).state is RunState.ABSENT
            assert (await host.observe(before)).state is RunState.RUNNING

    async def test_nobody_waits_and_the_guest_runs_on_and_can_be_moved_as_ever(self, bench: Bench) -> None:
        host = bench.source
        async with self.waiting(bench) as (before, after, path):
            await host.destroy(after)
            guest = await host.attach(before)
            with pytest.raises(MonitorCommandError):
                await guest.hand_over(path)
            await guest.forget_hand_over()
            assert (await guest.view()).state is RunState.RUNNING
            await guest.close()

    async def test_a_guest_says_why_its_memory_cannot_be_taken(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            hindrances = await guest.hand_over_hindrances()
            assert any("not compatible with CPR" in one for one in hindrances)
            assert (await guest.facts()).blockers == ()
