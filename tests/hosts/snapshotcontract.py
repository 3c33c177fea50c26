"""What every kind of host does with snapshots in images and with whole files: one suite for the simulator and for QEMU.

The bench's `disk` is a qcow2 image that both hosts see, the guest's only one; `private` a file that the source has.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from godwit.core.snapshots import DiskSnapshots, catalogue, nodes, state_node
from godwit.engine.carrying import Carrier
from godwit.errors import BusyError, HostError, HypervisorError, MonitorCommandError
from godwit.model import RunState

if TYPE_CHECKING:
    from contract import Bench

    from godwit.ports import Clock, Guest


async def save(guest: Guest, tag: str) -> float:
    disks = await guest.snapshots()
    return await guest.save_snapshot(tag, state_node(disks), nodes(disks))


async def load(guest: Guest, tag: str) -> float:
    disks = await guest.snapshots()
    return await guest.load_snapshot(tag, state_node(disks, tag), nodes(disks))


async def tags(guest: Guest) -> list[str]:
    return [one.tag for one in catalogue(await guest.snapshots())]


def nothing_left(words: str) -> None:
    """Fail: nothing is to be left."""
    raise AssertionError(words)


class SnapshotContract:
    """Snapshots in the images of a guest."""

    async def test_a_snapshot_is_kept_listed_gone_back_to_and_removed(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            assert await tags(guest) == []
            assert await save(guest, "my_tag") > 0
            assert (await guest.view()).state is RunState.RUNNING
            (kept,) = catalogue(await guest.snapshots())
            assert (kept.tag, kept.complete) == ("my_tag", True)
            assert kept.state_size > 0
            assert await load(guest, "my_tag") > 0
            assert (await guest.view()).state is RunState.RUNNING
            await guest.delete_snapshot("my_tag", nodes(await guest.snapshots()))
            await guest.delete_snapshot("my_tag", nodes(await guest.snapshots()))
            assert await tags(guest) == []

    async def test_disks_have_names_paths_and_formats(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            (disk,) = await guest.snapshots()
        assert (disk.path, disk.format, disk.read_only) == (bench.disk, "qcow2", False)
        assert disk.name
        assert disk.node

    async def test_a_guest_that_is_paused_stays_so(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            await guest.pause()
            assert await save(guest, "a") == 0.0
            assert (await guest.view()).state is RunState.PAUSED
            assert await load(guest, "a") == 0.0
            assert (await guest.view()).state is RunState.PAUSED

    async def test_a_name_that_is_taken_is_refused_and_the_guest_runs_on(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            await save(guest, "a")
            with pytest.raises(MonitorCommandError, match="already exists"):
                await save(guest, "a")
            assert (await guest.view()).state is RunState.RUNNING

    async def test_after_a_load_that_failed_the_guest_is_stopped_and_that_is_no_pause(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            with pytest.raises(MonitorCommandError, match="does not exist"):
                await load(guest, "never")
            view = await guest.view()
        assert (view.state, view.raw) == (RunState.OTHER, "restore-vm")

    async def test_a_guest_that_is_off_can_be_looked_into_and_started_from_its_snapshot(self, bench: Bench) -> None:
        await bench.start()
        async with bench.attached(bench.source) as guest:
            await save(guest, "a")
            await save(guest, "b")
        await bench.source.destroy(bench.vm)
        off = DiskSnapshots("disk", bench.disk, "qcow2", read_only=False)
        assert [one.tag for one in (await bench.source.image_snapshots(off)).snapshots] == ["a", "b"]
        await bench.source.delete_image_snapshot(bench.disk, "b")
        probed = await bench.source.image_snapshots(replace(off, format=""))
        assert (probed.format, [one.tag for one in probed.snapshots]) == ("qcow2", ["a"])

        launch = replace(bench.vm.launch, argv=(*bench.vm.launch.argv, "-S"))
        await bench.target.prepare_launch(bench.vm, launch)
        await bench.target.launch(bench.vm, launch)
        async with bench.attached(bench.target) as guest:
            assert (await guest.view()).state is RunState.PAUSED
            await load(guest, "a")
            assert (await guest.view()).state is RunState.PAUSED
            await guest.resume()
            assert (await guest.view()).state is RunState.RUNNING

    async def test_an_image_that_is_not_there_cannot_be_looked_into(self, bench: Bench) -> None:
        lost = DiskSnapshots("disk", f"{bench.disk}.none", "qcow2", read_only=False)
        with pytest.raises(Exception, match="none"):
            await bench.source.image_snapshots(lost)


class FileContract:
    """Whole files from host to host."""

    async def test_a_file_is_carried_and_is_its_owner_s(self, bench: Bench, clock: Clock) -> None:
        carrier = await self.carrier(bench, clock)
        await carrier.carry(bench.private)
        here, there = await asyncio.gather(
            *(host.digest(bench.private, all_of_it=True) for host in (bench.source, bench.target))
        )
        assert here == there
        assert await bench.target.used(bench.private) <= await bench.source.used(bench.private)
        await carrier.end(bench.private)
        await carrier.end(bench.private)
        await bench.target.remove_image(bench.private, "another")
        assert (await bench.target.place(bench.private)).exists
        await bench.target.remove_image(bench.private, "me")
        assert not (await bench.target.place(bench.private)).exists
        assert await bench.target.used(bench.private) == 0

    async def test_what_is_there_is_not_overwritten(self, bench: Bench, clock: Clock) -> None:
        before = await bench.target.digest(bench.disk, all_of_it=True)
        with pytest.raises((HostError, BusyError)):
            await (await self.carrier(bench, clock)).carry(bench.disk)
        assert await bench.target.digest(bench.disk, all_of_it=True) == before

    async def test_what_is_not_there_cannot_be_carried(self, bench: Bench, clock: Clock) -> None:
        with pytest.raises((HostError, HypervisorError)):
            await (await self.carrier(bench, clock)).carry(f"{bench.private}.none")
        assert not (await bench.target.place(f"{bench.private}.none")).exists

    async def test_a_carrier_proves_what_it_carried(self, bench: Bench, clock: Clock) -> None:
        told: list[tuple[int, int]] = []
        carrier = await self.carrier(bench, clock)
        size = await carrier.carry(bench.private, told=lambda done, whole: told.append((done, whole)))
        assert size == await bench.target.used(bench.private)
        assert told[-1][0] == told[-1][1] > 0
        with pytest.raises((HostError, BusyError)):
            await replace(carrier, owner="two").carry(bench.private)
        assert (await bench.target.place(bench.private)).exists
        await bench.target.keep_image(bench.private, "me")

    @staticmethod
    async def carrier(bench: Bench, clock: Clock) -> Carrier:
        """Carry from the source to where the target takes."""
        return Carrier(
            bench.source, bench.target, (await bench.target.facts()).migration_address, "me", clock, nothing_left
        )

    async def test_the_memory_of_a_process(self, bench: Bench) -> None:
        await bench.start()
        pid = (await bench.source.observe(bench.vm)).pid
        assert pid is not None
        assert await bench.source.resident(pid) > 1 << 20
