"""The use cases about what is to be expected of moves: profiles, forecasts, and how far what was expected came true."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from godwit.core.ballooning import reclaim_of
from godwit.core.capabilities import sendings, usual
from godwit.core.dirtying import LEAST_SAMPLED
from godwit.core.disks import copies, to_send
from godwit.core.foretelling import foretell
from godwit.core.learning import accuracy, seen_lately
from godwit.core.readings import busiest
from godwit.engine.expecting import known_of
from godwit.engine.gather import gather
from godwit.engine.windows import measure_windows
from godwit.errors import HostError, HypervisorError, InputError
from godwit.model import LinkSaid, Policy, Profile, RunState, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.core.learning import Accuracy, Known
    from godwit.engine.parts import Parts
    from godwit.model import DirtyWindow, Forecast, MoveRecord
    from godwit.ports import Guest, Host
    from godwit.service import Service


@dataclass(frozen=True, slots=True)
class Forecasts:
    """What can be asked before a move; stands on the service."""

    service: Service

    async def profile(self, name: str, *, sample: bool = True) -> Profile:
        """Measure how a running guest changes its memory, for some seconds; the guest takes no notice. It is kept.

        With `sample` some pages of its memory are looked at, too; where nobody may, the profile says why. Raises
        InputError for a guest that does not run or is too small to be sampled, HypervisorError, HostError.
        """
        await self.service.refuse_migrating(name)
        async with self._running(name, "only of a running guest can be said what it changes") as (host, guest):
            memory = (await guest.facts()).memory
            if memory < LEAST_SAMPLED:
                message = f"{name} has {memory >> 20} MiB, and QEMU samples no memory below {LEAST_SAMPLED >> 20} MiB"
                raise InputError(message)
            wrote, began = await guest.disk_writes(), self.service.clock.now()
            windows, busy = await self._windows(guest, memory)
            writes = (await guest.disk_writes() - wrote) / (self.service.clock.now() - began)
            found = Profile(name, host.name, began, memory, windows, busy=busy, disk_writes=max(0.0, writes))
            if sample:
                try:
                    found = replace(found, sample=await guest.sample_memory())
                except (HostError, HypervisorError) as error:
                    found = replace(found, unsampled=error.message)
        found = replace(found, at=self.service.clock.now())
        await self.service.journal.history.put_profile(found)
        return found

    async def _windows(self, guest: Guest, memory: int) -> tuple[tuple[DirtyWindow, ...], float | None]:
        """Measure what the guest changes, and how busy it is meanwhile, where its host lets that be seen."""
        before, began = await _worked(guest), self.service.clock.now()
        windows = await measure_windows(guest, memory)
        return windows, busiest(before, await _worked(guest), self.service.clock.now() - began)

    @asynccontextmanager
    async def _running(self, name: str, why: str) -> AsyncIterator[tuple[Host, Guest]]:
        """Open a running guest's host, and its second monitor: the first one stays free for whoever moves it.

        Raises InputError saying `why` a guest that does not run will not do.
        """
        vm = await self.service.inventory.vm(name)
        async with self.service.reached(vm.host) as host:
            looking = replace(vm, control=vm.observe or vm.control)
            view = await host.observe(looking)
            if view.state is not RunState.RUNNING:
                message = f"{name} is {view.state} on {vm.host}: {why}"
                raise InputError(message, remedy=f"godwit vm show {name}")
            guest = await host.attach(looking)
            try:
                yield host, guest
            finally:
                await guest.close()

    async def forecast(
        self,
        name: str,
        target: str,
        policy: Policy | None = None,
        *,
        link: float | None = None,
        anew: bool | None = None,
    ) -> Forecast:
        """Say what a live move would cost.

        `link` is the bandwidth of the link between the hosts in bytes a second, where somebody knows it; it is kept
        until a move shows it. `anew` says whether the guest is profiled first; None means where nothing that is known
        of it is younger than ten minutes.
        Raises InputError where the guest's writes or the link are not known at all, or what is said of it cannot be;
        HostError, HypervisorError.
        """
        if link is not None and not 0 < link < math.inf:
            message = f"{link} is no rate of a link"
            raise InputError(message, remedy="say it in bytes a second, as in link=50e6")
        spec = await self.service.spec(name, target, policy or Policy(), None)
        if spec.policy.way is not Way.LIVE:
            message = "only live moves are forecast: one that stands still takes as long as its memory takes to be sent"
            raise InputError(message)
        if anew or (anew is None and not await self._known_lately(name)):
            await self.profile(name)
        async with self.service.looking(spec) as (parts, guest):
            known = await self._known(parts, guest, link)
        if link is not None:
            now = self.service.clock.now()
            await self.service.journal.history.put_link(LinkSaid((spec.source, spec.target), link, now))
        return foretell(known, self.service.clock.now())

    async def _known(self, parts: Parts, guest: Guest, link: float | None) -> Known:
        """Gather what is known before a move, from both hosts. Raises InputError for a guest that does not run."""
        spec = parts.spec
        evidence, features = await asyncio.gather(gather(parts, guest), guest.features())
        if evidence.guest.run_state is not RunState.RUNNING:
            message = (
                f"{spec.vm} is {evidence.guest.run_state} on {spec.source}: only moves of a running guest are forecast"
            )
            raise InputError(message, remedy=f"godwit vm show {spec.vm}")
        # The target's QEMU is not there yet: but for what it can compress with, it is taken for one like this.
        here, there = (
            frozenset(one.qemu.compressions if one.qemu else ()) for one in (evidence.source, evidence.target)
        )
        source, target = (replace(features, compressions=found) for found in (here, there))
        known = await known_of(
            self.service.journal,
            parts.source,
            parts.vm,
            spec,
            evidence.guest.memory,
            link=link,
        )
        return replace(
            known,
            sendings=sendings(source, target),
            usual=replace(
                usual(spec.policy, source, target, copies(spec.policy, evidence.disks)),
                reclaim=reclaim_of(spec.policy, evidence.balloon, evidence.resident),
            ),
            disks=to_send(spec.policy, evidence.disks),
            tunable=features.parameters,
        )

    async def _known_lately(self, name: str) -> bool:
        now, history = self.service.clock.now(), self.service.journal.history
        return seen_lately(await history.profiles(name, limit=1), await history.moves(), name, now)

    async def record(self) -> tuple[list[MoveRecord], Accuracy]:
        """Return the moves that are remembered, the newest first, and how well they went as forecast."""
        moves = await self.service.journal.history.moves()
        return moves, accuracy(moves)


async def _worked(guest: Guest) -> tuple[float, ...]:
    try:
        return await guest.cpu_times()
    except HostError:
        return ()
