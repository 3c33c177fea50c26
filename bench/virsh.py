"""`virsh migrate --live` and Godwit side by side: the same image, hosts, link and probe, in turns, as typed by a user.

`python -m bench.virsh --pairs 6` moves two guests of one image to and fro between two hosts, one that libvirt owns and
one that Godwit owns, the latter with QEMU's defaults as well. Godwit refuses what libvirt owns, so it must be two.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from bench.ground import (
    CALM,
    DEFAULTS,
    GODWIT,
    Figure,
    Move,
    Users,
    Witness,
    keep,
    laboratory,
    move_with_godwit,
    parser,
    run,
    table,
    verdict,
)
from godwit import app
from godwit.bench.libvirthosts import start_daemons, start_guest
from godwit.bench.machines import link_bytes
from godwit.errors import ProbeError
from godwit.lab.assets import Tree, cache_folder, prepare
from godwit.lab.furnish import CLIENT, GuestPlan, add_guest, place_image, register
from godwit.lab.plan import LabPlan
from godwit.measure.gaps import client_view
from godwit.measure.probe import OutsideProbe, ProbeSpec

if TYPE_CHECKING:
    from godwit.bench.libvirthosts import LibvirtGuest
    from godwit.lab.laboratory import Laboratory
    from godwit.service import Service

NAME: Final = "virsh"
VIRSH: Final = "virsh"
ALIVE_DEADLINE: Final = 10.0
SETTLE: Final = 0.5
"""Seconds for which the probe goes on after a move."""
WAYS: Final = {VIRSH: "virsh migrate --live", DEFAULTS: "Godwit with QEMU's defaults", GODWIT: "Godwit"}
FIGURES: Final = (
    Figure("client gap", "client_gap_ms", "ms"),
    Figure("blackout, by its own account", "blackout_ms", "ms"),
    Figure("the whole command", "command_s", "s"),
    Figure("migration time, by its own account", "stream_s", "s"),
    Figure("bytes on the migration link", "link_bytes", "MB", 1e-6),
)


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, and what the users of libvirt's guest and of Godwit's noticed."""

    moves: tuple[Move, ...]
    libvirt: Witness
    godwit: Witness


@dataclass(frozen=True, slots=True)
class Ground:
    """The laboratory with both guests."""

    service: Service
    lab: Laboratory
    libvirts: LibvirtGuest
    godwits: str


async def measure(pairs: int, rate: int) -> Result:
    """Build a laboratory with libvirt, start both guests, move them, take everything down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print, Tree.LIBVIRT)
    tree = assets.trees[Tree.LIBVIRT]
    async with laboratory(LabPlan(NAME, link_rate=rate), tree) as lab, app.opened() as service:
        await register(service, lab)
        await start_daemons(lab)
        plan = GuestPlan("libvirt1", number=1)
        libvirts = start_guest(lab, await place_image(lab, assets, plan), plan)
        # One after the other: with real-time scheduling on two cores, two that boot together keep each other from it.
        async with Users(lab, libvirts.address) as theirs:
            godwits = await add_guest(service, lab, assets, GuestPlan("godwit1"))
            async with Users(lab, godwits.address or "") as ours:
                moves = await in_turns(Ground(service, lab, libvirts, godwits.name), pairs)
                return Result(tuple(moves), await theirs.witness(), await ours.witness())


async def in_turns(ground: Ground, rounds: int) -> list[Move]:
    """Move each way once a round, in another order every round: six rounds have every order once."""
    moves = []
    where = {VIRSH: 1, GODWIT: 1}
    orders = itertools.cycle(itertools.permutations(WAYS))
    for order in itertools.islice(orders, rounds):
        for way in order:
            guest = VIRSH if way == VIRSH else GODWIT
            source, where[guest] = where[guest], 3 - where[guest]
            target = f"host{where[guest]}"
            if way == VIRSH:
                moves.append(await move_with_virsh(ground, f"host{source}", target))
            else:
                moves.append(await move_with_godwit(ground.service, ground.lab, ground.godwits, target, way))
            print(json.dumps(asdict(moves[-1])), flush=True)
    return moves


async def move_with_virsh(ground: Ground, source: str, target: str) -> Move:
    """Type `virsh migrate --live` on the source with a probe around it, and read libvirt's own figures."""
    lab, guest = ground.lab, ground.libvirts
    await asyncio.sleep(CALM)
    async with OutsideProbe(lab.command(CLIENT, [sys.executable]), ProbeSpec.parse(guest.address)) as probe:
        await probe.ready()
        carried, typed = link_bytes(lab), time.time()
        job = await guest.migrate(source, target)
        ended = time.time()
        assert job is not None  # noqa: S101 - it had all the time there is; for the type checker
        alive = await replies(probe, ended)
        await asyncio.sleep(SETTLE)
        gap = client_view(await probe.finish()).client_gap_s
    return Move(
        way=VIRSH,
        status="completed",
        alive=alive,
        client_gap_ms=None if gap is None else gap * 1000,
        blackout_ms=float(job["downtime"]),
        qemu_ms=None,
        stream_s=job["time_elapsed"] / 1000,
        command_to_stream_s=None,
        command_s=ended - typed,
        bytes=job["memory_processed"],
        link_bytes=link_bytes(lab) - carried,
        passes=job["memory_iteration"],
    )


async def replies(probe: OutsideProbe, since: float) -> bool:
    """Say whether the guest answers a request that was sent after an instant. Raises ProbeError if the probe died."""
    try:
        await probe.replied_since(since, ALIVE_DEADLINE)
    except ProbeError:
        if probe.running:
            return False
        raise
    return True


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--pairs", type=int, default=6, help="moves each way, in turns; six are every order once")
    options = arguments.parse_args()
    result = run(lambda: measure(options.pairs, options.rate))
    keep(result, options.json)
    print(table(result.moves, WAYS, FIGURES, "Godwit to virsh"))
    print()
    print(verdict(result.moves, {"libvirt's guest": result.libvirt, "Godwit's guest": result.godwit}))
    unharmed = result.libvirt.unharmed and result.godwit.unharmed
    return 0 if unharmed and all(one.good for one in result.moves) else 1


if __name__ == "__main__":
    sys.exit(main())
