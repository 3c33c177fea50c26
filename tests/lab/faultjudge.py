"""Judges the end of a cell of the fault matrix: what both hosts, the guest and its client show from outside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from faultcells import Cell, End, Mode
from faultdeeds import FAULTS, Scene
from labtools import UNTOUCHED

from godwit.model import MIGRATION_PORTS, OutcomeStatus, Owner

if TYPE_CHECKING:
    from faultmatrix import Field
    from witness import Acknowledged

    from godwit.model import Outcome

SILENCE: Final = 5.0
"""Seconds within which a guest answers its client again when its runner was killed."""

MENDED: Final = 2.0
"""Seconds after its link is back within which a guest that has gone over gets memory again."""

ANSWERS: Final = 10.0
"""Seconds within which a guest must write again once its move has ended."""

DEAD: Final = frozenset({End.LOST, End.CRASHED, End.GONE})
_STATUSES: Final = {
    End.MOVED: {OutcomeStatus.COMPLETED},
    End.STAYS: {OutcomeStatus.FAILED, OutcomeStatus.CANCELLED},
    End.EITHER: {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED},
    End.LOST: {OutcomeStatus.FAILED},
    End.CRASHED: {OutcomeStatus.GUEST_CRASHED},
    End.GONE: {OutcomeStatus.GUEST_CRASHED, OutcomeStatus.COMPLETED},
}
_LOOKS: Final = "cat /run/log/memory; pidof memwriter >/dev/null || echo CORRUPT: it ended"


def counts(cell: Cell) -> bool:
    """Say whether the guest has to answer soon: one that is moved standing still is not meant to before its end."""
    return cell.fault == "runner killed" and cell.mode is not Mode.STATIC


@dataclass(slots=True)
class Verdict:
    """What came of a cell: nothing in `wrong` means that all was as it must be."""

    wrong: list[str] = field(default_factory=list)
    status: str = ""
    owner: str = ""
    error: str = ""
    leftovers: tuple[str, ...] = ()
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    silence: float = 0.0
    """The longest time for which the guest's client waited for it, from the fault on, in seconds."""
    mended: float | None = None
    """Seconds from a link's return until a guest that is on both sides got memory again."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Judge:
    """Looks at the world that a cell left behind, and writes into its verdict."""

    place: Field
    scene: Scene
    verdict: Verdict

    async def outcome(self, outcome: Outcome, struck: float) -> None:
        """Judge a move that ended so, `struck` by its fault at that instant of the clock that only goes forward."""
        verdict, scene = self.verdict, self.scene
        verdict.status, verdict.owner, verdict.error = outcome.status.value, outcome.owner.value, outcome.error
        verdict.leftovers = outcome.leftovers
        if outcome.status not in _STATUSES[scene.cell.end]:
            verdict.wrong.append(f"it ended as {outcome.status}: {outcome.error}")
        if scene.cell.end in DEAD:
            await self._dead(outcome)
        else:
            await self._alive(outcome)
        verdict.silence = round(scene.acknowledged.silence_after(struck), 2)
        if counts(scene.cell) and verdict.silence > SILENCE:
            verdict.wrong.append(f"the guest's client waited for {verdict.silence} s")
        doubled = scene.executions.doubled()
        verdict.doubled = len(doubled)
        verdict.wrong += [f"two copies ran: {words}" for words in doubled]
        verdict.acknowledged = len(scene.acknowledged.acked)

    async def mended(self, healed: float) -> None:
        """Judge how soon memory flowed again once the link was back, at that instant."""
        entries = await self.scene.moving.entries()
        mended = [line.at - healed for line in entries if line.data.get("event") == "StreamMended"]
        self.verdict.mended = round(mended[-1], 2) if mended else None
        if mended and mended[-1] > MENDED:
            self.verdict.wrong.append(f"memory flowed again {mended[-1]:.1f} s after the link was back")

    async def _alive(self, outcome: Outcome) -> None:
        """The guest runs on the side that owns it, alone, with all that it acknowledged, and nothing is left."""
        scene, wrong = self.scene, self.verdict.wrong
        machine, other = (scene.there, scene.here) if outcome.owner is Owner.TARGET else (scene.here, scene.there)
        if not await scene.executions.hears(lambda: scene.executions.running() == [machine], ANSWERS):
            wrong.append(f"it runs on {scene.executions.running()}, not on {machine}")
        if not await scene.acknowledged.goes_on(ANSWERS):
            wrong.append("the guest does not write any more")
        else:
            acked = dict(scene.acknowledged.acked)
            self._compare(scene.acknowledged, await scene.acknowledged.found(), acked)
        wrong += [f"the guest's client: {words}" for words in scene.acknowledged.faults]
        if (home := (await scene.ground.whereabouts())[0]) != machine:
            wrong.append(f"the inventory says that it lives on {home}")
        if self.place.busy and "CORRUPT" in (said := await asyncio.to_thread(scene.ground.ssh, _LOOKS)):
            wrong.append(f"memory: {said[-200:]}")
        named = FAULTS[scene.cell.fault].cut_off and bool(outcome.leftovers)
        left = [*self._left_on(other), *self._left_of_the_way(machine, other)]
        wrong += [f"left: {words}" for words in left if not named]

    async def _dead(self, outcome: Outcome) -> None:
        """Nothing runs anywhere; started anew, the guest has all that it acknowledged."""
        scene, wrong = self.scene, self.verdict.wrong
        if (running := scene.executions.running()) and not outcome.leftovers:  # one that waits for memory is named
            wrong.append(f"it runs on {running}")
        await asyncio.sleep(0.5)  # what it acknowledged before it died may still be on its way
        if await scene.acknowledged.goes_on(1.0):
            wrong.append("the guest writes on")
        scene.ground.lab.set_rate(None)
        acked = dict(scene.acknowledged.acked)
        async with await self.place.started_anew() as anew:
            anew.acked = {scene.acknowledged.first: 0}  # from where on the disk is read
            self._compare(anew, await anew.found(), acked)
        if scene.cell.end is End.LOST:
            wrong += [f"left: {words}" for words in self._left_on(scene.there)]

    def _compare(self, reader: Acknowledged, found: dict[int, int], acked: dict[int, int]) -> None:
        lost = reader.lost(found, acked)
        self.verdict.lost = len(lost)
        self.verdict.wrong += lost[:3]

    def _left_on(self, machine: str) -> list[str]:
        """Return what is left on the host that the guest is not on."""
        ground = self.scene.ground
        found = [words for words in ground.left_on(machine) if not words.endswith("witness.sock")]
        listing = ground.inside(machine, "ss", "-Htln").splitlines()
        ports = {int(line.split()[3].rpartition(":")[2]) for line in listing}
        found += [f"port {port} is listened at" for port in sorted(ports) if port in MIGRATION_PORTS]
        if self.place.apart and machine == self.scene.there:
            folder = ground.lab.images(machine)
            found += [str(path) for path in (*folder.glob("*.qcow2"), *folder.glob(".godwit-*"))]
        return found

    def _left_of_the_way(self, machine: str, other: str) -> list[str]:
        """Return what is still held of the move: send queues, tokens, and what QEMU serves, copies or is set to."""
        ground = self.scene.ground
        found = [
            f"{one}: tcp_notsent_lowat {value}, leases {leases}"
            for one in (machine, other)
            for value, leases in [ground.send_queue(one)]
            if (value, leases) != (UNTOUCHED, [])
        ]
        if not self.place.apart:
            found += [str(path) for path in ground.lab.images(machine).glob(".godwit-*")]
        qemu = self.scene.executions.pids.get(machine)
        if qemu is not None:
            for question in ("query-block-jobs", "query-block-exports"):
                if said := ground.ask(qemu, question):
                    found.append(f"{question}: {said}")
        return found
