"""Two ways to a monitor: a guest that Godwit knows, wherever it is now, and a socket that it has never seen."""

from __future__ import annotations

import posixpath
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.console.sides import Place, both_sides
from godwit.errors import InputError, QemuDiedError
from godwit.model import HostRecord, Launch, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.console.sides import Sides
    from godwit.ports import Guest, Host
    from godwit.service import Service

HERE: Final = "this machine"
"""How messages call the machine on which the command was typed."""


class _Hosts:
    """One open host, kept between lines; another takes its place when the guest has moved."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._open: tuple[HostRecord, Host] | None = None

    async def get(self, record: HostRecord) -> Host:
        if self._open is not None and self._open[0] == record:
            return self._open[1]
        await self.close()
        host = self._service.open_host(record)
        self._open = record, host
        await host.connect()
        return host

    async def close(self) -> None:
        if self._open is not None:
            await self._open[1].close()
            self._open = None


class KnownGuest:
    """A guest of the inventory: each line goes to the host where it is by then. Implements `session.Line`.

    Its observing monitor is used where it has one, so that the other stays free for migrations.
    """

    def __init__(self, service: Service, name: str, target: str | None = None) -> None:
        """Speak to the guest `name`; `target` is what --target-qmp named."""
        self._service = service
        self._name = name
        self._target = target
        self._hosts = _Hosts(service)

    async def where(self) -> str:
        """Return how messages call it. Raises UnknownVmError."""
        vm = await self._service.inventory.vm(self._name)
        return f"{vm.name} on {vm.host}"

    @asynccontextmanager
    async def guest(self) -> AsyncIterator[Guest]:
        """Hold the monitor for the length of a `with`."""
        vm = await self._service.inventory.vm(self._name)
        host = await self._hosts.get(await self._service.inventory.host(vm.host))
        guest = await host.attach(replace(vm, control=vm.observe or vm.control))
        try:
            yield guest
        finally:
            await guest.close()

    @asynccontextmanager
    async def sides(self, uri: str) -> AsyncIterator[Sides]:
        """Hold this monitor and that of the QEMU which waits at `uri`. Raises RefusedError with the reason."""
        vm = await self._service.inventory.vm(self._name)
        place = Place(await self._service.inventory.host(vm.host), vm.observe or vm.control)
        async with self.guest() as guest, both_sides(self._service, guest, place, uri, self._target) as sides:
            yield sides

    async def refuse_migrating(self) -> None:
        """Raise BusyError while Godwit moves this guest."""
        await self._service.refuse_migrating(self._name)

    async def close(self) -> None:
        """Let go of the host."""
        await self._hosts.close()


class BareSocket:
    """A QMP socket on a host, and nothing else known of the QEMU behind it. Implements `session.Line`."""

    def __init__(self, service: Service, record: HostRecord, path: str, target: str | None = None) -> None:
        """Speak to whatever serves `path` on the host of `record`; `target` is what --target-qmp named."""
        self._vm = Vm(posixpath.basename(path), record.name, Launch(()), control=path)
        self._service = service
        self._record = record
        self._target = target
        self._hosts = _Hosts(service)

    async def where(self) -> str:
        """Return how messages call it."""
        return f"{self._vm.control} on {self._record.name}"

    @asynccontextmanager
    async def guest(self) -> AsyncIterator[Guest]:
        """Hold the monitor for the length of a `with`."""
        host = await self._hosts.get(self._record)
        try:
            guest = await host.attach(self._vm)
        except QemuDiedError as error:
            message = f"no QEMU serves {self._vm.control} on {self._record.name}: {error.message.rpartition(': ')[2]}"
            raise QemuDiedError(
                message, remedy="name the socket that QEMU was given with -qmp; ss -xl lists those of the host"
            ) from error
        try:
            yield guest
        finally:
            await guest.close()

    @asynccontextmanager
    async def sides(self, uri: str) -> AsyncIterator[Sides]:
        """Hold this monitor and that of the QEMU which waits at `uri`. Raises RefusedError with the reason."""
        place = Place(self._record, self._vm.control)
        async with self.guest() as guest, both_sides(self._service, guest, place, uri, self._target) as sides:
            yield sides

    async def refuse_migrating(self) -> None:
        """Do nothing: Godwit does not move what it does not know."""

    async def close(self) -> None:
        """Let go of the host."""
        await self._hosts.close()


async def reach_socket(
    service: Service, path: str, host: str | None, target: str | None = None
) -> KnownGuest | BareSocket:
    """Return the way to the QMP socket `path`: a known guest's if it is one's, so that its moves are respected.

    Raises UnknownHostError, InputError.
    """
    if not path.startswith("/"):
        message = f"--qmp: {path!r} is no absolute path"
        raise InputError(message, remedy="name the socket as /path/on/the/host")
    record = await service.inventory.host(host) if host is not None else HostRecord(HERE, "local")
    same = {one.name for one in await service.inventory.hosts() if one.url == record.url}
    wanted = posixpath.normpath(path)
    for vm in await service.inventory.vms():
        sockets = {posixpath.normpath(socket) for socket in (vm.control, vm.observe) if socket}
        if vm.host in same and wanted in sockets:
            return KnownGuest(service, vm.name, target)
    return BareSocket(service, record, path, target)
