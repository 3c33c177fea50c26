"""The simulated hosts' snapshots and files: the contract of all hosts, and a carrier in trouble."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from contract import Bench
from snapshotcontract import FileContract, SnapshotContract, nothing_left

from godwit.engine.carrying import LOOK, STALLED, Carrier, to_its_end, whole
from godwit.errors import HostError
from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock
from godwit.model import Launch, Vm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.model import Pair
    from godwit.ports import Clock

VIRTUAL_TIME = True

DISK, PRIVATE = "/images/web.qcow2", "/images/private.iso"
LAUNCH = Launch(("qemu-system-x86_64", "-drive", f"file={DISK},if=virtio"))
VM = Vm("web", "one", LAUNCH, "/run/web/control", observe="/run/web/observe")


class Silent(FakeHost):
    """A host from which not a byte comes."""

    async def send_file(
        self, path: str, owner: str, url: str, *, size: int, speed: int, pair: Pair | None = None
    ) -> None:
        del path, owner, url, size, speed, pair
        await asyncio.Event().wait()


@pytest.fixture
def world() -> FakeWorld:
    made = FakeWorld(LoopClock(), seed=3)
    FakeHost(made, "one")
    FakeHost(made, "two")
    Silent(made, "three")
    made.add_file(DISK)
    made.add_file(PRIVATE, ["one"])
    made.add_file(PRIVATE, ["three"])
    return made


@pytest.fixture
def clock(world: FakeWorld) -> Clock:
    return world.clock


@pytest.fixture
def bench(world: FakeWorld) -> Iterator[Bench]:
    yield Bench(world.hosts["one"], world.hosts["two"], VM, DISK, PRIVATE)
    assert not world.broken_laws


class TestFakeSnapshots(SnapshotContract): ...


class TestFakeFiles(FileContract): ...


def carrier(bench: Bench, world: FakeWorld) -> Carrier:
    return Carrier(bench.source, bench.target, world.hosts["two"].migration_address, "me", world.clock, nothing_left)


@pytest.mark.parametrize("when", [0.1, LOOK + 0.1])
async def test_a_carrier_that_is_cancelled_leaves_nothing(bench: Bench, world: FakeWorld, when: float) -> None:
    world.shape("one", "two", 1_000_000)
    carrying = asyncio.create_task(carrier(bench, world).carry(PRIVATE))
    await world.clock.sleep(when)
    assert world.file(PRIVATE, "two") is not None
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carrying
    assert world.file(PRIVATE, "two") is None
    assert (world.hosts["one"].sends, world.hosts["two"].takes) == (set(), {})


async def test_one_that_is_cancelled_as_the_target_begins_to_take_leaves_nothing(
    bench: Bench, world: FakeWorld
) -> None:
    """What was begun on a host goes on there, whoever does not wait for it any more."""

    asked, ended = asyncio.Event(), asyncio.Event()

    class Slow(FakeHost):
        async def take_file(
            self, path: str, owner: str, address: str, port: int, size: int, *, pair: Pair | None = None
        ) -> None:
            async def take() -> None:
                await asyncio.wait([asyncio.create_task(ended.wait())], timeout=1.0)
                await FakeHost.take_file(self, path, owner, address, port, size, pair=pair)

            asked.set()
            await asyncio.shield(asyncio.create_task(take()))

        async def end_transfer(self, owner: str) -> None:
            await super().end_transfer(owner)
            if asked.is_set():
                ended.set()
                await asyncio.sleep(0.5)  # the answer is late

    target = Slow(world, "four")
    carrying = Carrier(bench.source, target, target.migration_address, "me", world.clock, nothing_left).carry(PRIVATE)
    task = asyncio.create_task(carrying)
    await asked.wait()
    assert world.file(PRIVATE, "four") is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.clock.sleep(2.0)
    assert (world.file(PRIVATE, "four"), target.takes) == (None, {})


async def test_a_link_that_is_cut_ends_in_words_and_leaves_nothing(bench: Bench, world: FakeWorld) -> None:
    world.shape("one", "two", 1_000_000)
    carrying = asyncio.create_task(carrier(bench, world).carry(PRIVATE))
    await world.clock.sleep(1.0)
    world.cut("one", "two")
    with pytest.raises(HostError, match="not a byte"):
        await carrying
    assert world.file(PRIVATE, "two") is None
    assert (world.hosts["one"].sends, world.hosts["two"].takes) == (set(), {})


async def test_a_way_without_a_byte_is_given_up(bench: Bench, world: FakeWorld) -> None:
    began = world.clock.now()
    with pytest.raises(HostError, match="not a byte"):
        await Carrier(world.hosts["three"], bench.target, "198.18.0.2", "me", world.clock, nothing_left).carry(PRIVATE)
    assert STALLED < world.clock.now() - began < 2 * STALLED
    assert world.file(PRIVATE, "two") is None


async def test_a_copy_that_differs_is_removed(bench: Bench, world: FakeWorld) -> None:
    class Damaging(FakeHost):
        async def digest(self, path: str, *, all_of_it: bool) -> str:
            return f"damaged {await super().digest(path, all_of_it=all_of_it)}"

    target = Damaging(world, "four")
    with pytest.raises(HostError, match="is not what"):
        await Carrier(bench.source, target, target.migration_address, "me", world.clock, nothing_left).carry(PRIVATE)
    assert world.file(PRIVATE, "four") is None


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_a_way_back_could_not_take_back_is_told_of(
    bench: Bench, world: FakeWorld, *, cancelled: bool
) -> None:
    """Whatever fails of it, the rest is done, and the reason for going back stays what is raised."""

    class Refusing(FakeHost):
        async def end_transfer(self, owner: str) -> None:
            if self.takes:
                raise HostError("the shell is gone")
            await super().end_transfer(owner)

        async def remove_image(self, path: str, owner: str) -> None:  # noqa: ARG002 - the port has it
            raise HostError("the disk is read only")

    left: list[str] = []
    target = Refusing(world, "four")
    world.shape("one", "four", 1_000_000)
    carrying = Carrier(bench.source, target, target.migration_address, "me", world.clock, left.append).carry(PRIVATE)
    task = asyncio.create_task(carrying)
    await world.clock.sleep(1.5)
    if cancelled:
        task.cancel()
    else:
        world.cut("one", "four")
    with pytest.raises(asyncio.CancelledError if cancelled else HostError) as raised:
        await task
    assert cancelled or "not a byte" in str(raised.value)
    assert left == [
        f"a transfer of {PRIVATE} may go on for a while on four: the shell is gone",
        f"{PRIVATE} may be left on four, half copied: the disk is read only",
    ]
    assert world.hosts["one"].sends == set()


async def test_what_must_be_done_is_done_though_it_is_cancelled_again_and_again(world: FakeWorld) -> None:
    done: list[str] = []

    async def work(word: str) -> str:
        await world.clock.sleep(1.0)
        done.append(word)
        return word

    late, heard = asyncio.create_task(to_its_end(work("late"))), asyncio.create_task(whole(work("heard")))
    for _ in range(3):
        await world.clock.sleep(0.1)
        late.cancel()
        heard.cancel()
    assert await late == "late"
    with pytest.raises(asyncio.CancelledError):
        await heard
    assert sorted(done) == ["heard", "late"]
