"""What moves in a story, and how: kinds of moves, workloads, links and policies, all from one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

from directscene import place
from simworld import SimHost, SimWorld

from godwit.hosts.fake import LoopClock, Workload
from godwit.model import Goal, Launch, Macvtap, Permission, Policy, ProbeRequest, Spec, Tap, Upgrade, Vm, Way
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

NEW: Final = "/opt/new/qemu-system-x86_64"
SHARED_MEMORY: Final = ("-machine", "q35,memory-backend=pc.ram,aux-ram-share=on")
HOSTS: Final = ("one", "two")

TINY: Final = Workload(memory=64 * MIB, used=8 * MIB, hot_set=MIB, dirty_rate=1.0 * MIB)
BUSY: Final = Workload(memory=256 * MIB, used=60 * MIB, hot_set=8 * MIB, dirty_rate=6.0 * MIB, disk_rate=1.0 * MIB)
IDLE: Final = Workload(memory=256 * MIB, used=40 * MIB, hot_set=0, dirty_rate=0.0)
FREED: Final = Workload(memory=256 * MIB, used=120 * MIB, hot_set=2 * MIB, dirty_rate=1.0 * MIB, freed=80 * MIB)
ENDLESS: Final = Workload(memory=256 * MIB, used=64 * MIB, hot_set=48 * MIB, dirty_rate=400 * MIB)

RATES: Final = (12.5e6, 50e6, 50e6, 125e6)
"""Links in bytes a second: 100 Mbit/s, 400 Mbit/s, 1 Gbit/s."""

SPARING: Final = 0.3
ON_MACVTAP: Final = 0.2
"""The share of moves that are to protect their neighbours: the other guests of a fleet."""

CROWDING: Final = 0.6
"""The share of its processors that a stream takes from the other guests of a simulated host."""

LATENCIES: Final = (0.0002, 0.0002, 0.0002, 0.015)
"""Seconds one way: a rack, and two towns."""


@dataclass(frozen=True, slots=True)
class Move:
    """One guest and how it is to move. `upgrade` is "in place" or "by copy" for a new QEMU on the same host.

    `device` is one that does not travel; `matched` says whether the target has what stands for it.
    """

    guest: str
    kind: str
    workload: Workload
    policy: Policy
    shared: bool = True
    disk: str = "raw"
    upgrade: str = ""
    medium: bool = False
    probed: bool = False
    begins: float = 0.0
    device: str = ""
    matched: bool = True
    macvtap: bool = False

    @property
    def id(self) -> str:
        """What the migration is called."""
        return f"{self.guest}-1"

    @property
    def path(self) -> str:
        """The guest's disk."""
        return f"/images/{self.guest}.{self.disk}"


def _live(chance: Random, guest: str) -> Move:
    return Move(guest, "live", chance.choice((TINY, BUSY, IDLE)), _policy(chance))


def _live_copied(chance: Random, guest: str) -> Move:
    disk = chance.choice(("raw", "qcow2"))
    policy = replace(_policy(chance), keep_old=chance.random() < 0.7, verify_disks=chance.random() < 0.25)
    return Move(guest, "live, disks copied", chance.choice((TINY, BUSY, IDLE)), policy, shared=False, disk=disk)


def _postcopy(chance: Random, guest: str) -> Move:
    policy = Policy(allows=frozenset({Permission.POSTCOPY}), goal=chance.choice(tuple(Goal)))
    return Move(guest, "postcopy", ENDLESS, policy)


def _static(chance: Random, guest: str) -> Move:
    shared = chance.random() < 0.5
    policy = replace(_policy(chance), way=Way.STATIC)
    return Move(guest, "static", chance.choice((TINY, BUSY)), policy, shared=shared, disk=_disk(chance))


def _off(chance: Random, guest: str) -> Move:
    shared = chance.random() < 0.5
    policy = replace(_policy(chance), way=Way.OFF, off_timeout=chance.choice((3.0, 20.0, 60.0)))
    workload = replace(
        TINY,
        power_off=chance.choice((0.02, 1.0, 5.0, None)),
        presses_missed=chance.choice((0, 0, 1)),
        agent=chance.choice((None, True, False)),
    )
    return Move(guest, "off", workload, policy, shared=shared, disk=_disk(chance))


def _upgrade(chance: Random, guest: str) -> Move:
    how = chance.choice(("in place", "by copy"))
    return Move(guest, f"upgrade {how}", chance.choice((TINY, BUSY)), _policy(chance), upgrade=how)


def _balloon(chance: Random, guest: str) -> Move:
    return Move(guest, "live, with balloon", FREED, _policy(chance))


def _media(chance: Random, guest: str) -> Move:
    return Move(guest, "live, with a medium", TINY, _policy(chance), shared=chance.random() < 0.5, medium=True)


KINDS: Final[tuple[tuple[int, Callable[[Random, str], Move]], ...]] = (
    (5, _live),
    (4, _live_copied),
    (4, _postcopy),
    (3, _static),
    (4, _off),
    (3, _upgrade),
    (1, _balloon),
    (1, _media),
)


def _disk(chance: Random) -> str:
    return chance.choice(("raw", "qcow2"))


def _policy(chance: Random) -> Policy:
    deadline = chance.choice((None, None, None, 2.0, 20.0))
    allows = Policy().allows | ({Permission.PAUSE} if chance.random() < 0.3 else set())
    return Policy(deadline=deadline, allows=frozenset(allows), max_downtime=chance.choice((0.05, 0.3, 2.0)))


def moves(chance: Random) -> tuple[Move, ...]:
    """Choose what moves: mostly one guest, now and then a small fleet."""
    weights = [weight for weight, _ in KINDS]
    count = chance.choice((1, 1, 1, 1, 1, 1, 1, 2, 3))
    chosen = []
    for number in range(count):
        kind = chance.choices([make for _, make in KINDS], weights)[0]
        move = kind(chance, f"web{number or ''}")
        probed = count == 1 and chance.random() < 0.2
        chosen.append(replace(move, probed=probed, begins=chance.uniform(0, 2) if number else 0.0))
    seed = repr(chance.getstate()[1])  # no text of sets: theirs depends on hashes
    return tuple(_on_macvtap(_sparing(move, seed), seed) for move in chosen)


def _sparing(move: Move, seed: str) -> Move:
    """Let a guest now and then spare its neighbours. Drawn by itself: what else is in a story stays what it was."""
    if Random(f"{seed} {move.guest}").random() >= SPARING:  # noqa: S311 - a simulation, no secrets
        return move
    return replace(move, policy=replace(move.policy, protect_neighbours=0.9))


def _on_macvtap(move: Move, seed: str) -> Move:
    """Give a guest now and then a macvtap in place of a tap; drawn by itself, too. No QEMU beside has the same one."""
    drawn = Random(f"{seed} {move.guest} macvtap").random()  # noqa: S311 - a simulation, no secrets
    return replace(move, macvtap=drawn < ON_MACVTAP and not move.upgrade)


@dataclass(slots=True)
class Scene:
    """The two hosts, and each guest as it is asked to move."""

    world: SimWorld
    hosts: dict[str, SimHost]
    vms: dict[str, Vm]
    specs: dict[str, Spec]


def furnish(seed: int, rate: float, all_moves: tuple[Move, ...], *, may_shorten: bool) -> Scene:
    """Set the scene. Must be called where a loop runs."""
    world = SimWorld(LoopClock(), seed=seed)
    hosts = {name: SimHost(world, name, may_shorten_send_queue=may_shorten) for name in HOSTS}
    for host in hosts.values():
        host.crowding = CROWDING
    world.link(*HOSTS).bandwidth = rate
    scene = Scene(world, hosts, {}, {})
    for number, move in enumerate(all_moves):
        _place(scene, move, number)
    return scene


def _place(scene: Scene, move: Move, number: int) -> None:
    world, guest = scene.world, move.guest
    world.add_file(move.path, None if move.shared else ["one"], size=1 << 28)
    argv: tuple[str, ...] = ("qemu-system-x86_64", "-drive", f"file={move.path},format={move.disk}")
    if move.medium:
        seed = f"/images/{guest}.iso"
        world.add_file(seed, ["one"], size=1 << 24, content=f"seed of {guest}")
        world.read_only.add(seed)
        argv = (*argv, "-cdrom", f"file={seed}")
    if move.upgrade == "in place":
        argv = (*argv, *SHARED_MEMORY)
    if move.device:
        argv = (*argv, "-device", move.device)
        place(scene.hosts, move)
    macvtap = Macvtap("eth0", "bridge", f"52:54:00:00:00:{number:02x}", 3) if move.macvtap else None
    tap = Tap(f"tap{number}", "" if move.macvtap else "br0", macvtap=macvtap)
    launch = Launch(argv, folders=(f"/run/{guest}",), taps=(tap,))
    address = f"198.18.0.{100 + number}" if move.probed else None
    vm = Vm(guest, "one", launch, f"/run/{guest}/control", observe=f"/run/{guest}/observe", address=address)
    vm = world.start_guest("one", vm, move.workload)
    spec = Spec(move.id, guest, "one", "one" if move.upgrade else "two", move.policy)
    if address is not None:
        spec = replace(spec, probe=ProbeRequest(address, interval=0.25))
    if move.upgrade:
        after = QemuHypervisor().beside(vm, vm.launch, NEW)
        upgrade = Upgrade(replace(vm, sibling=after.control), replace(after, sibling=vm.control))
        spec, vm = replace(spec, upgrade=upgrade), upgrade.before
    scene.vms[guest], scene.specs[guest] = vm, spec
