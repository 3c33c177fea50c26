"""Carries out one cell of the fault matrix over real QEMU, and says what was not as it must be.

A guest with a checksumming writer is moved; the runner is held at the cell's point, the fault strikes, the runner goes
on. Then both hosts are looked at from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

from faultcells import LAST_PAGES, POINTS, Cell, End, Mode
from faultdeeds import FAULTS, Scene
from faultjudge import Judge, Verdict
from labmoves import Move
from labtools import UNTOUCHED
from labtraps import Trap, Traps
from labwaits import LONG, until
from witness import MONITOR, Acknowledged, Executions

from godwit import app
from godwit.errors import GodwitError
from godwit.lab.furnish import GuestPlan, add_guest
from godwit.model import OutcomeStatus, Permission, Policy, RunState, Way
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from faultcells import Point
    from faultdeeds import Fault
    from labtools import Ground

    from godwit.model import Outcome

MEMORY: Final = 160 * MIB
OVER_LINK: Final = 120_000_000
"""Bits a second at which the writer of a busy guest is faster than the migration link."""

OVER_SLOWER: Final = 16_000_000
ENDS: Final = 100.0
"""Seconds within which a move must end, whatever strikes it."""

QUICK: Final = (
    Trap("set", at="godwit.core.recovery:PATIENCE", value=8.0),
    Trap("set", at="godwit.core.strategy:STALL_SECONDS", value=5.0),
    Trap("set", at="godwit.engine.mirroring:STALLED", value=5.0),
    Trap("set", at="godwit.journal.database:_BUSY_MILLISECONDS", value=500),
)
"""Patience of a minute, of 15 and 30 s, shortened: what comes after it is what a cell is about."""

_WRITES: Final = (
    "pidof memwriter >/dev/null || { memwriter --rate 40M --set 24M --verify >/run/log/memory 2>&1 & sleep 1; }; "
    "pidof memwriter"
)
_QUEUE: Final = "/run/godwit/send-queue"
_QUEUE_LENGTH: Final = "ipv4/tcp_notsent_lowat"
_FILLS: Final = "dd if=/dev/urandom of=/data/filling bs=1M count=12 conv=fsync 2>/dev/null; sync; echo filled"


@dataclass(slots=True)
class Field:
    """A laboratory on which cells are carried out one after the other, and its guest of now."""

    ground: Ground
    busy: bool | None = None
    """Whether the guest writes to its memory faster than its link carries; None where there is no guest yet."""

    @classmethod
    @contextlib.contextmanager
    def on(cls, ground: Ground) -> Iterator[Self]:
        """Give Godwit a home with little room, so that it can be filled."""
        mount = ["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "godwit-matrix", str(ground.home)]
        subprocess.run(mount, check=True)
        try:
            yield cls(ground)
        finally:
            ground.end_runners()
            subprocess.run(["umount", "--lazy", str(ground.home)], check=True)
            ground.home.rmdir()

    @property
    def apart(self) -> bool:
        """Whether its hosts share nothing."""
        return not self.ground.lab.plan.shared_storage

    # -- the guest of a cell -------------------------------------------------------------------------------------------

    async def ready(self, *, busy: bool) -> None:
        """See to it that the laboratory is whole, and that a guest runs in it that does what the cell needs."""
        ground = self.ground
        ground.lab.set_rate(None)
        if self.busy is not None:
            await self._make_whole()
        if self.busy is not busy:
            if self.busy is not None:
                await self._stop()
            await self._fresh(busy=busy)
        if busy:
            await until(lambda: bool(self._told(_WRITES)), "the guest writes to its memory", 90)

    def _told(self, line: str) -> str:
        """Run a line in the guest, and return what it said; nothing for one that is slow to answer, as after a boot."""
        try:
            return self.ground.ssh(line)
        except subprocess.TimeoutExpired:
            return ""

    async def _make_whole(self) -> None:
        """Mend what a cell that went wrong may have left, and start the guest anew where it does not run."""
        ground = self.ground
        for machine in ground.lab.status().machines:
            if not machine.up:
                ground.lab.restart(machine.name)
            if machine.cut:
                ground.lab.heal(machine.name, "all")
        for host in ground.qemus():
            if ground.send_queue(host) != (UNTOUCHED, []):  # of a host that was out of reach until the end
                ground.inside(host, "sh", "-c", f"rm -rf {_QUEUE}; echo {UNTOUCHED} >/proc/sys/net/{_QUEUE_LENGTH}")
        if not await self._alive():
            await self._stop()
            await self._fresh(busy=bool(self.busy))

    async def _alive(self) -> bool:
        async with app.opened(self.ground.home) as service:
            vm = await service.inventory.vm(self.ground.name)
            if (await service.view_vm(vm)).state is not RunState.RUNNING or await service.journal.rows(unfinished=True):
                return False
        try:
            async with Acknowledged(self.ground.address):
                return len([one for found in self.ground.qemus().values() for one in found]) == 1
        except (OSError, TimeoutError):
            return False

    async def _stop(self) -> None:
        """End the guest's QEMUs, and what holds on to the ways of its moves."""
        self.ground.end_runners()
        await self.clear()
        for host in self.ground.qemus():
            for tap in self.ground.taps(host):
                self.ground.inside(host, "ip", "link", "delete", tap)

    async def clear(self) -> None:
        """End each of the guest's QEMUs."""
        ground = self.ground
        for found in ground.qemus().values():
            for qemu in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(qemu.pid, signal.SIGKILL)
        await until(lambda: not any(ground.qemus().values()), "the guest's QEMUs are gone")

    async def _fresh(self, *, busy: bool) -> None:
        ground = self.ground
        number, ground.guests = ground.guests, ground.guests + 1
        words = ("godwit.services=ssh,acks",)
        plan = GuestPlan(f"web{number}", number, MEMORY, words=words, extra=MONITOR)
        async with app.opened(ground.home) as service:
            vm = await add_guest(service, ground.lab, ground.assets, plan)
        ground.use(vm.name, number)
        await self.answers()
        if self.apart:
            await until(lambda: self._told(_FILLS) == "filled", "the guest's disk holds something", 90)
        self.busy = busy

    async def answers(self, within: float = 150.0) -> None:
        """Wait until the guest acknowledges writes."""
        end = time.monotonic() + within
        # It says nothing until it is asked: whoever knows at which host it was would go on to ask there.
        forget = ["ip", "neighbour", "flush", "to", self.ground.address]
        await asyncio.to_thread(subprocess.run, forget, check=True)
        while True:
            try:
                async with Acknowledged(self.ground.address):
                    return
            except (OSError, TimeoutError):
                assert time.monotonic() < end, f"{self.ground.name} does not write"
                await asyncio.sleep(0.1)

    async def started_anew(self) -> Acknowledged:
        """Start a guest that died from its disks, where the inventory says that it lives, and connect to it."""
        await self.clear()
        async with app.opened(self.ground.home) as service:
            await service.start_vm(self.ground.name)
        await self.answers()
        return Acknowledged(self.ground.address)

    # -- a cell --------------------------------------------------------------------------------------------------------

    async def carry_out(self, cell: Cell) -> Verdict:
        """Let the cell happen, look at what is there afterwards, and leave the laboratory as it was."""
        began = time.monotonic()
        await self.ready(busy=cell.mode is Mode.POSTCOPY)
        here, there = await self.ground.whereabouts()
        if self.apart:
            self._forget_copies(there)
        trial = Trial(self, cell, here, there)
        async with AsyncExitStack() as stack:
            await trial.begin(stack)
            try:
                await trial.happen(stack)
            except (AssertionError, OSError, TimeoutError, GodwitError) as error:
                trial.verdict.wrong.append(f"{type(error).__name__}: {error}")
            finally:
                with contextlib.suppress(OSError, GodwitError):
                    await trial.mend()
        trial.verdict.seconds = round(time.monotonic() - began, 1)
        return trial.verdict

    def _forget_copies(self, machine: str) -> None:
        folder = self.ground.lab.images(machine)
        for path in (*folder.glob("*.qcow2"), *folder.glob(".godwit-*")):
            path.unlink()


@dataclass(slots=True)
class Trial:
    """One cell while it happens."""

    place: Field
    cell: Cell
    here: str
    there: str
    verdict: Verdict = field(default_factory=Verdict)
    scene: Scene = field(init=False)
    _mended: bool = True

    @property
    def ground(self) -> Ground:
        """The laboratory."""
        return self.place.ground

    @property
    def point(self) -> Point:
        """Where the move is held."""
        return POINTS[self.cell.point]

    @property
    def fault(self) -> Fault:
        """What strikes."""
        return FAULTS[self.cell.fault]

    @property
    def impatient(self) -> bool:
        """Whether patience is shortened: also where a guest that is on both sides waits for memory that is gone."""
        return self.fault.impatient or (self.cell.mode is Mode.POSTCOPY and self.cell.end is End.CRASHED)

    async def begin(self, stack: AsyncExitStack) -> None:
        """Let those watch who watch from outside."""
        ground = self.ground
        executions = await stack.enter_async_context(Executions(ground.lab.name, ground.name))
        acknowledged = await stack.enter_async_context(Acknowledged(ground.address))
        assert await executions.hears(lambda: executions.running() == [self.here], 5), executions.spans
        pid = executions.pids[self.here]
        self.scene = Scene(ground, self.cell, self.here, self.there, executions, acknowledged, pid)

    async def happen(self, stack: AsyncExitStack) -> None:
        """Move, hold, strike, let go; then judge."""
        scene, fault = self.scene, self.fault
        if fault.prepare is not None:
            await fault.prepare(scene)
            self._mended = False
        if self.point.crawls:
            await stack.enter_async_context(self.ground.dirtying("8M", "16M"))
        await self._strike()
        struck = time.monotonic()
        if fault.lasts:
            await asyncio.sleep(fault.lasts)
        if fault.lasts is not None:
            await self.mend()
        healed = time.time()
        if fault.commands:
            await self._command()
        outcome = await self._outcome()
        await self.mend()
        self.ground.lab.set_rate(None)
        judge = Judge(self.place, self.scene, self.verdict)
        await judge.outcome(outcome, struck)
        if self.cell.point == "over" and self.cell.fault.startswith("migration link"):
            await judge.mended(healed)

    async def mend(self) -> None:
        """Take the fault back, once."""
        if not self._mended:
            self._mended = True
            await self.fault.mend(self.scene)

    async def _strike(self) -> None:
        """Ask for the move and let the fault strike where it is to."""
        lab, point = self.ground.lab, self.point
        # A disk that goes before is not to crawl, and the last pages are to, from when the source sends.
        first = point.crawls or (point.passes > 0 and self.cell.mode is Mode.MIRROR)
        rate = OVER_LINK if self.place.busy else point.rate
        holds = (Trap("hold", "precopy"),) if first else ()
        traps = self.ground.lay(*holds, *filter(None, [point.trap]), *(QUICK * self.impatient))
        lab.set_rate(None if first else rate)
        async with self._asked(f"{traps.mark(len(holds))}.sock") as asked:
            self.scene.move = await self._ask(traps)
            if first:
                await until(traps.sprung, "the target listens, and has the disks")
                await asyncio.to_thread(lab.set_rate, LAST_PAGES if point.crawls else rate)
                traps.release()
            await self._reached(asked)
        if self._lets_go:
            await asyncio.to_thread(lab.set_rate, OVER_LINK if self.place.busy else None)

    @contextlib.asynccontextmanager
    async def _asked(self, path: str) -> AsyncIterator[asyncio.Future[None]]:
        """Let the fault strike when a runner is held at the point; it goes on, if it still can, when that is done."""
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if self.cell.point == "over":
                    self.ground.lab.set_rate(OVER_SLOWER)
                await self._struck()
            except (AssertionError, OSError) as error:
                asked.set_exception(error)
            else:
                asked.set_result(None)
            finally:
                with contextlib.suppress(OSError):
                    writer.write(b"!")
                    writer.close()

        server = await asyncio.start_unix_server(answer, path)
        try:
            yield asked
        finally:
            server.close()
            asked.cancel()

    async def _reached(self, asked: asyncio.Future[None]) -> None:
        """Wait until the move has come to the point, and the fault has struck there."""
        move = self.scene.moving
        if self.point.cancels:
            await move.streams(1)
            async with app.opened(self.ground.home) as service:
                await service.cancel(move.id)
        if self.point.trap is None:
            await move.streams(self.point.passes)
            await self._struck()
        else:
            async with asyncio.timeout(LONG):
                await asked

    @property
    def _lets_go(self) -> bool:
        """Whether the link is fast again once the fault has struck; the last pages are to crawl on."""
        lasting = self.fault.lasts is None or self.cell.fault.startswith("migration link")
        return not (self.point.crawls and lasting)

    async def _struck(self) -> None:
        self._mended = False
        await self.fault.strike(self.scene)

    async def _ask(self, traps: Traps) -> Move:
        """Ask for the move as the cell's mode says, and leave it to its runner."""
        ground, mode = self.ground, self.cell.mode
        policy = Policy(way=Way.STATIC) if mode is Mode.STATIC else Policy()
        if mode is Mode.POSTCOPY:
            policy = replace(policy, allows=frozenset({Permission.POSTCOPY, Permission.BALLOON}))
        before = dict(os.environ)
        async with app.opened(ground.home) as service:
            os.environ.update(traps.environment)  # what its runner finds
            try:
                identifier = await service.migrate(
                    ground.name, ground.host(self.there), policy, None, defaults=self.point.crawls
                )
            finally:
                os.environ.clear()
                os.environ.update(before)
        ground.moves.append(identifier)
        return Move(ground, identifier)

    async def _command(self) -> None:
        """Do what each command does first: take up what has lost its runner."""
        move = self.scene.moving
        end = time.monotonic() + ENDS
        while time.monotonic() < end:
            async with app.opened(self.ground.home) as service:
                row, state = await service.journal.load(move.id)
                ended = row.outcome is not None and state.finished
                # One that was just killed may hold its lock for a moment longer.
                if ended or move.processes()[1] is not None or move.id in await service.take_up():
                    return
            await asyncio.sleep(0.2)

    async def _outcome(self) -> Outcome:
        """Wait for the end; one in LIMBO is looked at again once the fault is mended."""
        move = self.scene.moving
        outcome = await move.outcome(ENDS)
        if (outcome.status is OutcomeStatus.LIMBO) is not self.cell.limbo:
            self.verdict.wrong.append(f"it was {'' if self.cell.limbo else 'not '}to be in LIMBO: {outcome.error}")
        end = time.monotonic() + ENDS
        while outcome.status is OutcomeStatus.LIMBO:
            await self.mend()
            assert time.monotonic() < end, "it stays in LIMBO"
            await self._command()
            outcome = await move.outcome(ENDS)
        return outcome
