"""Snapshots over simulated hosts: what users ask for, with a fault at every place, and one who dies at every step."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from godwit.core.sending import SendRecord, SendStep
from godwit.engine.sending import Sending
from godwit.errors import (
    BusyError,
    GodwitError,
    GuestCrashedError,
    HypervisorError,
    InputError,
    LimboError,
    MigrationCancelledError,
    MigrationFailedError,
    RefusedError,
    UnknownSnapshotError,
)
from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock, VirtualTimeLoop, Workload
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakewatch import FakeWatcher
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.model import HostRecord, Launch, Spec, Vm
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.service import Service
from godwit.snapshots import Snapshots
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from godwit.engine.sending import Told
    from godwit.ports import Log

DISK, RAW = "/images/web.qcow2", "/images/extra.raw"
SMALL = Workload(memory=64 * MIB, used=40 * MIB)


class DiedError(BaseException):
    """The process ends here."""


class Inventory(MemoryInventory):
    """Lets its process die when a step has been written."""

    def __init__(self) -> None:
        super().__init__(MemoryJournal())
        self.dies_at: SendStep | None = None

    async def put_send(self, record: SendRecord) -> None:
        await super().put_send(record)
        if record.step is self.dies_at:
            raise DiedError


@dataclass
class Runners:
    held: set[str] = field(default_factory=set)

    def start(self, identifier: str, vm: str) -> None:
        raise NotImplementedError

    def alive(self, vm: str) -> bool:
        return vm in self.held

    def logs(self) -> dict[str, Log]:
        return {}

    def remove_log(self, identifier: str) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def hold(self, vm: str) -> AsyncIterator[None]:
        if vm in self.held:
            raise BusyError("somebody else works on it")
        self.held.add(vm)
        try:
            yield
        finally:
            self.held.discard(vm)


class Place:
    """Two hosts, a guest on the first, and what can be asked."""

    def __init__(self, *, shared: bool = False, disks: tuple[str, ...] = (DISK,)) -> None:
        self.world = FakeWorld(LoopClock(), seed=11)
        self.hosts = {name: FakeHost(self.world, name) for name in ("one", "two")}
        for disk in disks:
            self.world.add_file(disk, None if shared else ["one"], size=64 * MIB)
        drives = [word for disk in disks for word in ("-drive", f"file={disk}")]
        vm = Vm("web", "one", Launch(("qemu-system-x86_64", *drives)), "/run/c", observe="/run/o")
        self.vm = self.world.start_guest("one", vm, SMALL)
        self.inventory = Inventory()
        self.runners = Runners()
        self.service = Service(
            journal=MemoryJournal(),
            inventory=self.inventory,
            hypervisor=QemuHypervisor(),
            runners=self.runners,
            watcher=FakeWatcher(self.world, {}),
            clock=self.world.clock,
            open_host=lambda record: self.hosts[record.name],
            authority=FakeAuthority(self.world.clock),
        )
        self.asked = Snapshots(self.service)
        self.told: list[str] = []

    async def furnish(self) -> Place:
        for name in self.hosts:
            await self.inventory.put_host(HostRecord(name, f"ssh://{name}"))
        await self.inventory.put_vm(self.vm)
        return self

    def tell(self, told: Told) -> None:
        self.told.append(told.text)

    def memory(self) -> int:
        """Return the name of the memory's content, where the guest is."""
        (qemu,) = (qemu for host in self.hosts.values() for qemu in host.qemus.values())
        return qemu.memory

    async def home(self) -> str:
        return (await self.inventory.vm("web")).host

    async def assert_at(self, host: str, *, running: bool = True) -> None:
        """The guest is on one host alone, as it should be, and nothing is left of a sending."""
        assert self.world.broken_laws == []
        assert self.world.executing("web") == ([host] if running else [])
        assert [name for name, one in self.hosts.items() if "web" in one.qemus] == [host]
        assert await self.home() == host
        assert await self.inventory.sends() == []
        assert self.world.owned == {}
        assert all((one.takes, one.sends) == ({}, set()) for one in self.hosts.values())
        assert self.runners.held == set()
        assert all(one.credentials == {} for one in self.hosts.values())
        if host == "one":
            there = self.world.file(DISK, "two")
            assert there is None or there is self.world.file(DISK, "one")


def simulated(scenario: Callable[[], Coroutine[object, object, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())


# -- in place ----------------------------------------------------------------------------------------------------------


def test_create_list_apply_delete_running_and_off() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        asked = place.asked
        assert await asked.list("web") == ()
        made = await asked.create("web", "a", place.tell)
        assert made.standstill > 0.1
        assert made.snapshot.complete
        await place.world.clock.sleep(5)
        await asked.create("web", "b")
        assert [one.tag for one in await asked.list("web")] == ["a", "b"]
        back = await asked.apply("web", "a")
        assert back.snapshot.tag == "a"
        await place.assert_at("one")
        await asked.delete("web", "b")
        await place.service.stop_vm("web", force=True)
        assert [one.tag for one in await asked.list("web")] == ["a"]
        with pytest.raises(InputError, match="is off"):
            await asked.create("web", "c")
        await asked.apply("web", "a")
        await place.assert_at("one")
        await place.service.stop_vm("web", force=True)
        await asked.delete("web", "a")
        assert await asked.list("web") == ()
        for gone in (asked.delete("web", "a"), asked.apply("web", "a"), asked.find("web", "a")):
            with pytest.raises(UnknownSnapshotError):
                await gone

    simulated(scenario)


def test_a_guest_that_is_paused_stays_so() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        place.hosts["one"].qemus["web"].stop()
        await place.asked.create("web", "a")
        await place.asked.apply("web", "a")
        await place.assert_at("one", running=False)

    simulated(scenario)


@pytest.mark.parametrize("host", ["one", "two"])
def test_a_raw_disk_is_named_and_nothing_is_touched(host: str) -> None:
    async def scenario() -> None:
        place = await Place(disks=(DISK, RAW)).furnish()
        with pytest.raises(RefusedError, match=r"extra.raw"):
            await (place.asked.create("web", "a") if host == "one" else place.asked.send("web", "a", host))
        await place.assert_at("one")

    simulated(scenario)


def test_a_failure_in_the_middle_leaves_the_guest_running_and_no_snapshot() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        place.world.refuse("one", "snapshot-save", "Error while writing VM state: Input/output error")
        with pytest.raises(HypervisorError, match="goes on as before") as failed:
            await place.asked.create("web", "a")
        assert "room" in failed.value.remedy
        assert await place.asked.list("web") == ()
        await place.assert_at("one")

    simulated(scenario)


def test_no_room_is_seen_beforehand() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        place.world.fill_disk("one")
        with pytest.raises(RefusedError, match="0 MiB left"):
            await place.asked.create("web", "a")
        await place.assert_at("one")

    simulated(scenario)


def test_a_guest_that_could_not_go_back_is_left_stopped() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        await place.asked.create("web", "a")
        place.world.refuse("one", "loading", "Error -22 while loading VM state", times=1)
        with pytest.raises(HypervisorError, match="do not resume") as failed:
            await place.asked.apply("web", "a")
        assert "godwit vm stop --force web; godwit snapshot apply web a" in failed.value.remedy
        await place.assert_at("one", running=False)
        for act in (place.asked.apply("web", "a"), place.asked.create("web", "b"), place.asked.send("web", "a", "two")):
            with pytest.raises(RefusedError, match="restore-vm"):
                await act
        await place.service.stop_vm("web", force=True)
        await place.asked.apply("web", "a")
        await place.assert_at("one")

    simulated(scenario)


def test_what_is_migrated_or_held_is_left_alone() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        async with place.runners.hold("web"):
            for act in (place.asked.create("web", "a"), place.asked.send("web", "a", "two")):
                with pytest.raises(BusyError):
                    await act
        await place.service.journal.create(Spec("web-1", "web", "one", "two"), 1.0)
        for act in (place.asked.create("web", "a"), place.asked.send("web", "a", "two")):
            with pytest.raises(BusyError, match="web-1"):
                await act

    simulated(scenario)


# -- sending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("running", [True, False])
def test_a_guest_is_sent(shared: bool, running: bool) -> None:  # noqa: FBT001 - pytest gives them by name
    async def scenario() -> None:
        place = await Place(shared=shared).furnish()
        if not running:
            place.hosts["one"].qemus["web"].stop()
        sent = await place.asked.send("web", "a", "two", place.tell)
        assert sent.carried == (() if shared else (DISK,))
        assert sent.images == sent.carried
        assert sent.left == ()
        await place.assert_at("two", running=running)
        assert place.world.file(DISK, "one") is not None
        assert [one.tag for one in await place.asked.list("web")] == ["a"]
        with pytest.raises(InputError, match="already"):
            await place.asked.send("web", "a", "two")

    simulated(scenario)


def test_an_existing_snapshot_is_taken_as_it_is() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        await place.asked.create("web", "a")
        await place.world.clock.sleep(60)
        await place.asked.send("web", "a", "two", place.tell)
        assert not any("keeping" in text for text in place.told)
        await place.assert_at("two")

    simulated(scenario)


def cut(place: Place) -> None:
    place.world.cut("one", "two")


CARRIED = ("carrying", True)
"""What does not happen on shared storage."""

FAULTS: dict[str, tuple[str, Callable[[Place], None]]] = {
    "the snapshot fails": ("", lambda place: place.world.refuse("one", "snapshot-save", "no room")),
    "the link is cut": ("carrying", cut),
    "the target's disk fills up": ("carrying", lambda place: place.world.fill_disk("two")),
    "its QEMU does not start": ("", lambda place: place.world.refuse("two", "launch", "no such bridge")),
    "it cannot go to the snapshot": ("", lambda place: place.world.refuse("two", "loading", "Error -22")),
    "it cannot be looked into": ("starting", lambda place: place.world.refuse("two", "query-block", "no")),
}


TRIED = [
    (fault, shared) for fault, (when, _) in FAULTS.items() for shared in (False, True) if (when, shared) != CARRIED
]


@pytest.mark.parametrize(("fault", "shared"), TRIED)
def test_a_guest_that_cannot_be_sent_goes_on_where_it_was(fault: str, shared: bool) -> None:  # noqa: FBT001 - as above
    when, act = FAULTS[fault]

    async def scenario() -> None:
        place = await Place(shared=shared).furnish()

        def tell(told: Told) -> None:
            if when and told.text.startswith(when):
                act(place)

        if not when:
            act(place)
        with pytest.raises(MigrationFailedError, match="runs on, on one"):
            await place.asked.send("web", "a", "two", tell)
        await place.assert_at("one")

    simulated(scenario)


def test_a_target_that_loses_its_power_has_its_copy_left_over_and_named() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        place.world.shape("one", "two", 1_000_000)

        def tell(told: Told) -> None:
            place.tell(told)
            if told.text.startswith("carrying"):
                asyncio.get_running_loop().call_later(2.0, place.world.crash_host, "two")

        with pytest.raises(MigrationFailedError, match="left over"):
            await place.asked.send("web", "a", "two", tell)
        assert any(words.startswith(f"{DISK} may be left on two, half copied: ") for words in place.told)
        assert place.world.executing("web") == ["one"]
        assert await place.inventory.sends() == []

    simulated(scenario)


def test_keys_that_a_silent_host_keeps_are_named_and_go_with_the_next_sending() -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        place.world.shape("one", "two", 1_000_000)

        def tell(told: Told) -> None:
            if told.whole:
                place.world.cut("two")

        with pytest.raises(MigrationFailedError, match=r"keys of web-\w+ may be left on two"):
            await place.asked.send("web", "a", "two", tell)
        assert place.world.executing("web") == ["one"]
        assert place.hosts["one"].credentials == {}
        assert place.hosts["two"].credentials != {}
        place.world.heal("two")
        place.world.shape("one", "two", 100_000_000)
        for path in [path for path in place.world._files if place.world.file(path, "two")]:
            await place.hosts["two"].remove_image(path, place.world.owned.get(place.world.file(path, "two").inode, ""))  # type: ignore[union-attr]
        await place.asked.send("web", "a", "two")
        await place.assert_at("two")

    simulated(scenario)


def test_a_target_that_falls_silent_with_a_shared_disk_open_keeps_the_guest_off() -> None:
    """Its paused QEMU may still have the image open: a second one must not open it."""

    async def scenario() -> None:
        place = await Place(shared=True).furnish()

        def tell(told: Told) -> None:
            if told.text.startswith("starting"):
                place.world.cut("two")

        with pytest.raises(LimboError) as limbo:
            await place.asked.send("web", "a", "two", tell)
        assert "godwit snapshot send web a two" in limbo.value.remedy
        assert place.world.executing("web") == []
        with pytest.raises(BusyError, match="being sent"):
            await place.service.start_vm("web")
        with pytest.raises(BusyError, match="being sent"):
            await place.service.migrate("web", "two")
        with pytest.raises(BusyError, match="being sent"):
            await place.service.remove_host("two")
        with pytest.raises(BusyError, match="being sent"):
            await place.asked.apply("web", "a")
        place.world.heal("two")
        await place.asked.send("web", "a", "two")
        await place.assert_at("two")

    simulated(scenario)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("moment", [0.02 * number for number in range(1, 60, 3)])
def test_an_interrupted_guest_is_on_one_side_whole(moment: float, shared: bool) -> None:  # noqa: FBT001 - as above
    async def scenario() -> None:
        place = await Place(shared=shared).furnish()
        sending = asyncio.create_task(place.asked.send("web", "a", "two"))
        await place.world.clock.sleep(moment)
        sending.cancel()
        try:
            await sending
        except (MigrationCancelledError, asyncio.CancelledError):
            await place.assert_at("one")
        else:
            await place.assert_at("two")

    simulated(scenario)


# -- one who dies ------------------------------------------------------------------------------------------------------


async def die_at(place: Place, step: SendStep, monkeypatch: pytest.MonkeyPatch, tag: str = "a") -> None:
    """Send until a step is written; then the process is gone, and does nothing more."""

    async def nothing(*_: object) -> None:
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(Sending, "_go_back", nothing)
        patch.setattr(Sending, "_undo_saving", nothing)
        place.inventory.dies_at = step
        with pytest.raises(DiedError):
            await place.asked.send("web", tag, "two")
    place.inventory.dies_at = None
    place.world.drop_controller()
    place.runners.held.clear()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("step", SendStep)
def test_who_dies_is_succeeded_and_the_guest_arrives(
    step: SendStep,
    shared: bool,  # noqa: FBT001 - pytest gives them by name
    known: bool,  # noqa: FBT001 - as above
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        place = await Place(shared=shared).furnish()
        if known:
            await place.asked.create("web", "a")
        await die_at(place, step, monkeypatch)
        with pytest.raises(BusyError, match=r"godwit snapshot send|being sent"):
            await place.service.start_vm("web")
        with pytest.raises(BusyError):
            await place.asked.send("web", "other", "two")
        sent = await place.asked.send("web", "a", "two")
        assert sent.tag == "a"
        await place.assert_at("two")

    simulated(scenario)


def test_who_dies_with_a_guest_that_somebody_starts_on_the_source_gives_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        await die_at(place, SendStep.STARTING, monkeypatch)
        await place.hosts["one"].launch(place.vm, place.vm.launch)
        with pytest.raises(BusyError, match="stays there"):
            await place.asked.send("web", "a", "two")
        await place.assert_at("one")

    simulated(scenario)


def test_once_armed_a_guest_that_is_gone_on_the_target_is_not_started_on_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        await die_at(place, SendStep.ARMED, monkeypatch)
        place.world.kill("two", "web")
        with pytest.raises(GuestCrashedError) as crashed:
            await place.asked.send("web", "a", "two")
        assert "godwit snapshot apply web a" in crashed.value.remedy
        assert place.world.executing("web") == []
        assert await place.home() == "two"
        await place.asked.apply("web", "a")
        await place.assert_at("two")

    simulated(scenario)


def test_what_a_silent_host_would_decide_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        place = await Place().furnish()
        await die_at(place, SendStep.ARMED, monkeypatch)
        place.world.cut("two")
        with pytest.raises(GodwitError) as silent:
            await place.asked.send("web", "a", "two")
        assert isinstance(silent.value, LimboError)
        assert [one.step for one in await place.inventory.sends()] == [SendStep.ARMED]
        place.world.heal("two")
        await place.asked.send("web", "a", "two")
        await place.assert_at("two")

    simulated(scenario)
