"""`migrate -b` over two simulated hosts in virtual time: faults at any instant, and the law at each of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

from godwit.console.diskcopy import Guard
from godwit.console.guarding import ENDED, HANDS_OVER, Orders, take_over
from godwit.console.reach import BareSocket
from godwit.console.session import Reply, Session
from godwit.console.sides import Place, address_of, given_target
from godwit.errors import InputError, LimboError, RefusedError
from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock, VirtualTimeLoop, Workload
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakewatch import FakeWatcher
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.model import HostRecord, Launch, Vm
from godwit.service import Service
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from godwit.console.sides import Sides
    from godwit.model import DiskCopy
    from godwit.ports import Host

T = TypeVar("T")

DISK: Final = "/images/web.raw"
SMALL: Final = Workload(memory=64 * MIB, used=8 * MIB, hot_set=MIB, dirty_rate=1.0 * MIB)
PORT: Final = 6666
INSTANTS: Final = [n / 20 for n in range(1, 26)]
"""Seconds after the command; all of it takes somewhat more than a second."""


class Listening(Guard):
    """Remembers what a guard is told."""

    def __init__(self) -> None:
        self.orders: Orders | None = None
        self.last = ""

    async def begin(self, sides: Sides, copies: Sequence[DiskCopy], before: dict[str, bool], disks: str) -> None:
        self.orders = Orders.of(Orders(*sides.places, tuple(copy.job for copy in copies), before, disks).line())

    async def hands_over(self, *, resume: bool) -> None:
        assert resume
        self.last = HANDS_OVER

    async def end(self) -> None:
        self.last = ENDED


@dataclass
class Scene:
    """A guest on "one", and a QEMU on "two" that waits for it; each has a disk of its own."""

    world: FakeWorld
    one: FakeHost
    two: FakeHost
    service: Service
    session: Session
    guard: Listening
    uri: str
    said: list[str] = field(default_factory=list)

    def assert_lawful(self, where: str) -> None:
        assert self.world.broken_laws == []
        assert self.world.executing("web") == [where]
        assert self.world.tokens == {}

    def assert_clean(self) -> None:
        """Nothing of a copy is left on the source, and its capabilities are as they were."""
        qemu = self.one.qemus["web"]
        assert qemu.blocks.mirrors == {}
        assert not qemu.capabilities["pause-before-switchover"]


async def scene() -> Scene:
    world = FakeWorld(LoopClock(), seed=5)
    hosts = {name: FakeHost(world, name) for name in ("one", "two")}
    one, two = hosts.values()
    for name in hosts:
        world.add_file(DISK, [name], size=24 * MIB)
    file = world.file(DISK, "two")
    assert file is not None
    world.incomplete.add(file.inode)
    launch = Launch(("qemu-system-x86_64", "-drive", f"file={DISK},format=raw"))
    vm = world.start_guest("one", Vm("web", "one", launch, "/run/web"), SMALL)
    await two.prepare_launch(vm, launch)
    await two.launch(vm, launch, incoming=True)
    guest = await two.attach(vm)
    uri = await guest.listen(f"tcp:{two.migration_address}:{PORT}")
    await guest.close()
    two.qemus["web"].stays_stopped, two.qemus["web"].armed = False, True  # somebody started it without -S
    journal = MemoryJournal()
    inventory = MemoryInventory(journal)
    opened: dict[str, Host] = {**hosts}
    for host in (one, two):
        await inventory.put_host(
            HostRecord(host.name, f"ssh://root@{host.name}", migration_address=host.migration_address)
        )
    service = Service(
        journal=journal,
        inventory=inventory,
        hypervisor=None,  # type: ignore[arg-type] # nobody is defined or adopted
        runners=None,  # type: ignore[arg-type] # nobody is started
        watcher=FakeWatcher(world, {}),
        clock=world.clock,
        open_host=lambda record: opened[record.name],
        authority=FakeAuthority(world.clock),
    )
    guard = Listening()
    line = BareSocket(service, await inventory.host("one"), vm.control)
    said: list[str] = []
    session = Session(line, said.append, said.append, lambda: guard)
    return Scene(world, one, two, service, session, guard, uri, said)


def simulate(scenario: Callable[[], Coroutine[object, object, T]]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scenario())


def test_nothing_disturbs_it() -> None:
    async def scenario() -> None:
        made = await scene()
        assert await made.session.run(f"migrate -b {made.uri}") == Reply("Completed 100 %\n")
        made.assert_lawful("two")
        shown = [int(one.split()[1]) for one in made.said if one.startswith("Completed ")]
        assert shown == sorted(set(shown))
        assert len(shown) > 2
        assert made.two.qemus["web"].blocks.disks_port is None
        assert made.two.qemus["web"].objects == {}
        assert made.guard.last == ENDED
        assert "remaining disk: 0 kbytes" in (await made.session.run("info migrate")).text

    simulate(scenario)


@pytest.mark.parametrize("instant", INSTANTS)
def test_a_cancel_at_any_instant(instant: float) -> None:
    async def scenario() -> None:
        made = await scene()
        assert await made.session.run(f"migrate -d -b {made.uri}") == Reply()
        await asyncio.sleep(instant)
        assert (await made.session.run("info migrate")).status == 0
        assert (await made.session.run("migrate_cancel")).status == 0
        moved = made.world.executing("web") == ["two"]
        made.assert_lawful("two" if moved else "one")
        if not moved:
            made.assert_clean()

    simulate(scenario)


@pytest.mark.parametrize("instant", INSTANTS)
def test_the_target_dies_at_any_instant(instant: float) -> None:
    async def scenario() -> None:
        made = await scene()
        task = asyncio.create_task(made.session.run(f"migrate -b {made.uri}"))
        await asyncio.sleep(instant)
        had_moved = made.world.executing("web") == ["two"]
        qemu = made.two.qemus["web"]
        qemu.exit("it was killed")
        try:
            reply = await task
        except LimboError:  # it had everything, and was about to be told to run
            assert made.world.executing("web") == []
        else:
            if not had_moved:
                assert reply.status == 7
                made.assert_lawful("one")
                made.assert_clean()
        assert made.world.broken_laws == []

    simulate(scenario)


@pytest.mark.parametrize("instant", INSTANTS)
def test_the_source_dies_at_any_instant(instant: float) -> None:
    async def scenario() -> None:
        made = await scene()
        task = asyncio.create_task(made.session.run(f"migrate -b {made.uri}"))
        await asyncio.sleep(instant)
        moved = made.world.executing("web") == ["two"]
        made.one.qemus["web"].exit("it was killed")
        await asyncio.gather(task, return_exceptions=True)
        assert made.world.executing("web") == (["two"] if moved else [])
        assert made.world.broken_laws == []

    simulate(scenario)


@pytest.mark.parametrize("instant", INSTANTS)
def test_the_link_is_cut_at_any_instant_and_somebody_cancels(instant: float) -> None:
    async def scenario() -> None:
        made = await scene()
        await made.session.run(f"migrate -d -b {made.uri}")
        await asyncio.sleep(instant)
        link = made.world.link("one", "two")
        link.up = False
        await asyncio.sleep(1)
        assert (await made.session.run("migrate_cancel")).status == 0
        assert made.world.broken_laws == []
        if made.world.executing("web") == ["one"]:
            made.assert_clean()
        job = made.session._job
        assert job is not None
        # Where the word to hand over had been given, it says that nobody can know, instead of running it anywhere.
        assert made.world.executing("web") or isinstance(job.trouble, LimboError)

    simulate(scenario)


@pytest.mark.parametrize("instant", INSTANTS)
def test_the_console_dies_at_any_instant_and_its_guard_takes_over(instant: float) -> None:
    async def scenario() -> None:
        made = await scene()
        task = asyncio.create_task(made.session.run(f"migrate -b {made.uri}"))
        await asyncio.sleep(instant)
        if task.done():
            return
        orders, last = made.guard.orders, made.guard.last
        if orders is None:
            return  # nothing had been begun
        # A killed process does nothing on its way out: its monitors close, and that is all.
        job = made.session._job
        assert job is not None
        assert job._task is not None
        for host in (made.one, made.two):
            for monitor in host.monitors():
                monitor.lose("the console was killed")
        assert await take_over(made.service, orders, last) == []
        where = made.world.executing("web")
        assert where == (["two"] if last == HANDS_OVER else ["one"])
        made.assert_lawful(where[0])
        await asyncio.gather(task, return_exceptions=True)

    simulate(scenario)


def test_what_the_source_lacks_is_refused_and_nothing_changes() -> None:
    async def scenario() -> None:
        made = await scene()
        for line, words in {
            f"migrate -i {made.uri}": "no disk of this guest has one",
            "migrate -b tcp:nowhere:1": "no registered host is called nowhere",
            f"migrate -b tcp:{made.two.migration_address}:1": "nobody listens at",
            "migrate -b exec:cat": "cannot be copied to exec",
            "migrate -b tcp:localhost:6666": "nobody listens at",
        }.items():
            with pytest.raises(RefusedError, match=words):
                await made.session.run(line)
            made.assert_lawful("one")
            made.assert_clean()

    simulate(scenario)


def test_a_second_migrate_is_refused_in_qemus_words_and_close_takes_back() -> None:
    async def scenario() -> None:
        made = await scene()
        await made.session.run(f"migrate -d -b {made.uri}")
        again = await made.session.run(f"migrate -d -b {made.uri}")
        assert again == Reply("Error: There's a migration process in progress\n", 6)
        await made.session.close()
        made.assert_lawful("one")
        made.assert_clean()

    simulate(scenario)


def test_finish_waits_for_what_was_left_running() -> None:
    async def scenario() -> None:
        made = await scene()
        would_run = [made.two.qemus["web"].armed]
        await made.session.run(f"migrate -d -b {made.uri}")
        await asyncio.sleep(0.3)
        would_run.append(made.two.qemus["web"].armed)
        assert would_run == [True, False], "it was told to wait"
        assert await made.session.finish() == Reply("Completed 100 %\n")
        made.assert_lawful("two")
        assert await made.session.finish() == Reply()

    simulate(scenario)


@pytest.mark.parametrize(
    ("uri", "connect", "bind"),
    [
        ("tcp:kvm-host2:6666", "kvm-host2", "0.0.0.0"),  # noqa: S104 - what is expected
        ("tcp:192.0.2.12:6666", "192.0.2.12", "192.0.2.12"),
        ("tcp:[2001:db8::2]:6666", "2001:db8::2", "2001:db8::2"),
        ("tcp:0:6666", "127.0.0.1", "127.0.0.1"),
        ("tcp:localhost:6666", "127.0.0.1", "127.0.0.1"),
        ("tcp:[::1]:6666", "127.0.0.1", "127.0.0.1"),
        ("tcp::6666", "127.0.0.1", "127.0.0.1"),
        ("unix:/run/stream", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_where_disks_go(uri: str, connect: str, bind: str) -> None:
    address = address_of(uri)
    assert (address.connect, address.bind) == (connect, bind)


@pytest.mark.parametrize(
    "uri", ["exec:cat", "fd:3", "file:/x", "tcp:h", "tcp:h:", "unix:relative", "rdma:h:1", "nonsense", ""]
)
def test_where_disks_cannot_go(uri: str) -> None:
    with pytest.raises(RefusedError):
        address_of(uri)


def test_target_qmp() -> None:
    assert given_target("/run/x") == (None, "/run/x")
    assert given_target("kvm-host2:/run/x") == ("kvm-host2", "/run/x")
    for wrong in ("", "x", ":/run/x", "host:", "host:relative"):
        with pytest.raises(InputError, match="--target-qmp"):
            given_target(wrong)


def test_orders_come_back_from_json() -> None:
    place = Place(HostRecord("one", "ssh://root@one", use_agent=False), "/run/a b.sock")
    orders = Orders(place, replace(place, socket="/run/c"), ("godwit-disk0",), {"events": False}, "192.0.2.2:49152")
    assert Orders.of(orders.line()) == orders
