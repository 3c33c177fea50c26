"""The use cases of checks over several hosts: every guest against them, two beside each other, a CPU for all.

Nothing is changed by any of them. A host that does not answer is named, and keeps the others from nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, cast

from godwit.core.baseline import Giver, baseline
from godwit.core.differences import compare
from godwit.core.preflight import check
from godwit.core.preflight.matrix import Cell, Matrix, Row, Verdict, judged
from godwit.engine.gather import gather
from godwit.errors import GodwitError, HostError, InputError
from godwit.model import CpuFacts, Policy, Side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from godwit.core.differences import Aspect
    from godwit.engine.parts import Parts
    from godwit.model import Baseline, GuestFacts, HostFacts, HostRecord, Packets, Vm
    from godwit.ports import Guest, Host
    from godwit.service import Service

_SIDE_BY_SIDE: Final = 8
"""Pairs that are looked at at a time: each takes some commands on two hosts."""

Accelerator = Literal["kvm", "tcg"]


class _Once:
    """A host that is asked once for what does not change while all pairs are looked at; all else is passed on.

    Proofs of shared disks leave a token beside a file: those of two guests with one backing file would take each
    other's away, so that whoever plants one waits for the last one's end. `tokens` are all hosts' together.
    """

    def __init__(self, host: Host, tokens: dict[str, asyncio.Lock]) -> None:
        self._host = host
        self._tokens = tokens
        self._answers: dict[object, asyncio.Future[object]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._host, name)

    async def _ask(self, question: object, ask: Callable[[], Awaitable[object]]) -> object:
        if question not in self._answers:
            self._answers[question] = asyncio.ensure_future(ask())
        return await asyncio.shield(self._answers[question])

    async def facts(self, qemu: str | None = None) -> HostFacts:
        return cast("HostFacts", await self._ask(("facts", qemu), lambda: self._host.facts(qemu)))

    async def reaches(self, address: str, port: int) -> bool:
        return bool(await self._ask(("reaches", address), lambda: self._host.reaches(address, port)))

    async def packets(self, address: str) -> Packets:
        return cast("Packets", await self._ask(("packets", address), lambda: self._host.packets(address)))

    async def plant_token(self, path: str, token: str) -> None:
        lock = self._tokens.setdefault(path, asyncio.Lock())
        await lock.acquire()
        try:
            await self._host.plant_token(path, token)
        except BaseException:
            lock.release()
            raise

    async def remove_token(self, path: str, token: str) -> None:
        try:
            await self._host.remove_token(path, token)
        finally:
            self._tokens[path].release()


class _Told:
    """A guest whose facts are asked for once; all else is passed on."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._facts: asyncio.Future[GuestFacts] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._guest, name)

    async def facts(self) -> GuestFacts:
        if self._facts is None:
            self._facts = asyncio.ensure_future(self._guest.facts())
        return await asyncio.shield(self._facts)


@dataclass(slots=True)
class _Hosts:
    """The hosts of a matrix, each opened once; `silent` says of those that do not answer what they did."""

    opened: dict[str, Host] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checks:
    """Checks over several hosts; see `Service` for the rest."""

    service: Service

    async def matrix(
        self, hosts: Sequence[str] = (), *, sources: Sequence[str] = (), policy: Policy | None = None
    ) -> Matrix:
        """Look at every guest of the hosts `sources` (all hosts, if none is named) against each of `hosts`.

        Without `hosts`, against every host. A guest or host that cannot be looked at is one of the matrix, and no
        error. Raises UnknownHostError, and InputError where there is nothing to look at.
        """
        known = {record.name: record for record in await self.service.inventory.hosts()}
        for name in (*hosts, *sources):
            await self.service.inventory.host(name)
        targets = tuple(dict.fromkeys(hosts)) or tuple(known)
        homes = set(sources) or set(known)
        vms = [vm for vm in await self.service.inventory.vms() if vm.host in homes]
        if not vms:
            where = f" on {', '.join(sources)}" if sources else ""
            message = f"there is no guest{where} to look at"
            raise InputError(message, remedy="godwit vm list; godwit vm adopt HOST --qmp SOCKET")
        wanted = {name: known[name] for name in (*targets, *(vm.host for vm in vms))}
        async with self._open(wanted) as opened:
            limit = asyncio.Semaphore(_SIDE_BY_SIDE)
            rows = await asyncio.gather(*(self._row(vm, targets, opened, policy or Policy(), limit) for vm in vms))
        cells = tuple(cell for row in rows for cell in row)
        named = tuple(Row(vm.name, vm.host) for vm in vms)
        return Matrix(named, targets, cells, tuple(sorted(opened.silent.items())))

    @asynccontextmanager
    async def _open(self, wanted: dict[str, HostRecord]) -> AsyncIterator[_Hosts]:
        """Reach the hosts side by side; those that do not answer are silent, and no error."""
        found, tokens = _Hosts(), dict[str, asyncio.Lock]()

        async def reach(name: str, host: Host) -> None:
            try:
                await host.connect()
                found.opened[name] = cast("Host", _Once(host, tokens))
            except GodwitError as error:
                found.silent[name] = error.message

        async with AsyncExitStack() as stack:
            hosts = {name: self.service.open_host(record) for name, record in wanted.items()}
            for host in hosts.values():
                stack.push_async_callback(host.close)
            await asyncio.gather(*(reach(name, host) for name, host in hosts.items()))
            yield found

    async def _row(
        self, vm: Vm, targets: Sequence[str], hosts: _Hosts, policy: Policy, limit: asyncio.Semaphore
    ) -> list[Cell]:
        """Look at one guest against all targets; its facts are asked for once."""

        def unknown(trouble: str) -> list[Cell]:
            return [
                Cell(vm.name, name, Verdict.HOME if name == vm.host else Verdict.UNKNOWN, (), trouble)
                for name in targets
            ]

        if vm.host not in hosts.opened:
            return unknown(f"{vm.name} is on {vm.host}: {hosts.silent[vm.host]}")
        try:
            async with limit:
                guest = await hosts.opened[vm.host].attach(vm)
        except GodwitError as error:
            return unknown(error.message)
        try:
            told = cast("Guest", _Told(guest))
            return list(await asyncio.gather(*(self._cell(vm, name, told, hosts, policy, limit) for name in targets)))
        finally:
            await guest.close()

    async def _cell(
        self, vm: Vm, target: str, guest: Guest, hosts: _Hosts, policy: Policy, limit: asyncio.Semaphore
    ) -> Cell:
        if target == vm.host:
            return Cell(vm.name, target, Verdict.HOME)
        if target not in hosts.opened:
            return Cell(vm.name, target, Verdict.UNKNOWN, (), hosts.silent[target])
        try:
            async with limit:
                parts = await self._parts(vm, target, hosts, policy)
                return judged(vm.name, target, check(await gather(parts, guest)))
        except GodwitError as error:
            return Cell(vm.name, target, Verdict.UNKNOWN, (), error.message)

    async def _parts(self, vm: Vm, target: str, hosts: _Hosts, policy: Policy) -> Parts:
        spec = await self.service.spec(vm.name, target, policy, None)
        parts = await self.service.parts(spec, epoch=0, requested=self.service.clock.now())
        await asyncio.gather(*(parts.host(side).close() for side in Side))  # of their own; ours are open
        return replace(parts, source=hosts.opened[vm.host], target=hosts.opened[target])

    async def compare(self, here: str, there: str) -> tuple[Aspect, ...]:
        """Say what differs between two hosts, what differs first. Raises UnknownHostError, HostError."""
        if here == there:
            message = f"{here} does not differ from itself"
            raise InputError(message, remedy="name two hosts; godwit host list has them")
        left, right = await asyncio.gather(self.service.check_host(here), self.service.check_host(there))
        return compare(left, right)

    async def baseline(self, hosts: Sequence[str], accelerator: Accelerator | None = None) -> Baseline:
        """Return the largest CPU that guests can have on all of the hosts, under KVM where it runs on all of them.

        `accelerator` says for which else. Raises UnknownHostError, HostError, and InputError where there is none.
        """
        names = tuple(dict.fromkeys(hosts))
        records = [await self.service.inventory.host(name) for name in names]
        async with self._open({record.name: record for record in records}) as opened:
            if opened.silent:
                name, why = next(iter(opened.silent.items()))
                raise HostError(why, remedy=f"leave {name} out, or see why: godwit host check {name}")
            facts = await asyncio.gather(*(opened.opened[name].facts() for name in names))
            chosen = accelerator or ("kvm" if all("kvm" in one.accelerators for one in facts) else "tcg")
            cpus = await asyncio.gather(*(_cpu(opened.opened[one.name], one, chosen) for one in facts))
        return baseline([Giver(one, cpu) for one, cpu in zip(facts, cpus, strict=True)], chosen)


async def _cpu(host: Host, facts: HostFacts, accelerator: str) -> CpuFacts:
    """Ask a host's QEMU; where KVM does not run, its models are those of emulation, see `Giver`."""
    if facts.qemu is None:
        return CpuFacts()
    runs = accelerator if accelerator in facts.accelerators else "tcg"
    return await host.cpu(facts.qemu.path, runs)
