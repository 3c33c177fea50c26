"""The two QEMUs of a migration with disks: where they are, and how the console gets hold of both."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from godwit.errors import GodwitError, InputError, MonitorBusyError, QemuDiedError, RefusedError
from godwit.model import HostRecord, Launch, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.ports import Guest, Host
    from godwit.service import Service

MEND: Final = (
    "name the target's QMP socket with --target-qmp PATH (on the same host) or --target-qmp HOST:PATH (on a registered "
    "host); over storage that both hosts share, migrate works without -b and -i"
)

_TCP: Final = re.compile(r"tcp:(?:\[(?P<six>[^\]]*)\]|(?P<host>[^\[\]:]*)):(?P<port>\d+)")
_HERE: Final = frozenset({"", "0", "localhost", "localhost.localdomain"})
_LOOPBACK: Final = "127.0.0.1"
_ANYWHERE: Final = "0.0.0.0"  # noqa: S104 - as wide as the seed's own `-incoming tcp:0:6666`, and only where a name is all there is


@dataclass(frozen=True, slots=True)
class Place:
    """A QMP socket on a host."""

    record: HostRecord
    socket: str

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"{self.socket} on {self.record.name}"

    @property
    def vm(self) -> Vm:
        """What stands for the QEMU behind it, of which nothing else is known."""
        return Vm(posixpath.basename(self.socket), self.record.name, Launch(()), control=self.socket)

    def document(self) -> dict[str, object]:
        """Return it as plain JSON: how the host is reached, without what else is kept of it."""
        record = asdict(self.record)
        del record["fence"], record["pools"]
        return {"record": record, "socket": self.socket}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """Read it from JSON."""
        return cls(HostRecord(**document["record"]), document["socket"])


@dataclass(frozen=True, slots=True)
class Sides:
    """Both QEMUs of a migration, their monitors held.

    `stays_stopped` says that the target was started with -S. Disks are served at `bind` on the target's host, which
    the source calls `address`. `places` are the sockets of source and target.
    """

    source: Guest
    target: Guest
    source_host: Host
    target_host: Host
    stays_stopped: bool
    address: str
    bind: str
    places: tuple[Place, Place]


@dataclass(frozen=True, slots=True)
class Address:
    """What a uri says of the other side: `host` is empty where it is this very host."""

    uri: str
    host: str

    @property
    def here(self) -> bool:
        """Whether the target is on the source's own host."""
        return not self.host

    @property
    def connect(self) -> str:
        """What the source calls the target's host."""
        return self.host or _LOOPBACK

    @property
    def bind(self) -> str:
        """Where the target takes disks: at the very address, where the uri gives one."""
        return self.connect if _is_address(self.connect) else _ANYWHERE


def address_of(uri: str) -> Address:
    """Read a uri that has a live QEMU at its other end. Raises RefusedError for one that has none."""
    match = _TCP.fullmatch(uri.partition(",")[0])
    if match is not None:
        host = match["six"] if match["six"] is not None else match["host"]
        return Address(uri.partition(",")[0], "" if host in _HERE or _is_loopback(host) else host)
    if uri.startswith("unix:/"):
        return Address(uri, "")
    kind = uri.partition(":")[0]
    message = f"migrate: disks cannot be copied to {kind}: their copy needs a live QEMU at the other end"
    raise RefusedError(message, remedy="write tcp:HOST:PORT or unix:/PATH, at which the target waits with -incoming")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text).is_loopback


def given_target(text: str) -> tuple[str | None, str]:
    """Read --target-qmp: PATH, or HOST:PATH. Raises InputError."""
    host, colon, path = ("", "", text) if text.startswith("/") else text.partition(":")
    if not path.startswith("/") or (colon and not host):
        message = f"--target-qmp: {text!r} is neither /PATH nor HOST:/PATH"
        raise InputError(message, remedy="name the socket that the target was given with -qmp")
    return host or None, path


async def target_places(
    service: Service, source: Place, address: Address, given: str | None
) -> tuple[HostRecord, tuple[str, ...]]:
    """Return the target's host, and the QMP sockets that were named for it: none where they are to be found.

    Raises RefusedError where nobody knows the host that the uri names, UnknownHostError, InputError.
    """
    if given is not None:
        name, path = given_target(given)
        return await service.inventory.host(name) if name else source.record, (path,)
    if address.here:
        return source.record, ()
    for record in await service.inventory.hosts():
        url = record.url.partition("://")[2].rpartition("@")[2]
        if address.host in {record.name, record.migration_address, re.sub(r":\d+$", "", url).strip("[]")}:
            return record, ()
    message = (
        f"migrate: the copy of disks needs the target's QMP socket, and no registered host is called {address.host}"
    )
    raise RefusedError(message, remedy=f"godwit host add NAME ssh://root@{address.host}, or {MEND}")


@asynccontextmanager
async def both_sides(
    service: Service, source: Guest, place: Place, uri: str, given: str | None
) -> AsyncIterator[Sides]:
    """Get hold of the target of a migration of `source`, which is held already, for the length of a `with`.

    Raises RefusedError with the reason where it cannot be found, HostError, HypervisorError.
    """
    address = address_of(uri)
    record, named = await target_places(service, place, address, given)
    async with AsyncExitStack() as stack:
        source_host = service.open_host(place.record)
        stack.push_async_callback(source_host.close)
        target_host = service.open_host(record)
        stack.push_async_callback(target_host.close)
        stays_stopped = False
        try:
            waiting = await target_host.waiting_at(address.uri)
        except InputError as error:
            if not named:
                message = f"migrate: the copy of disks needs the target's QMP socket: {error.message}"
                raise RefusedError(message, remedy=f"{error.remedy}; {MEND}".removeprefix("; ")) from error
        else:
            stays_stopped = waiting.stays_stopped
            named = named or waiting.monitors
            if not named:
                message = f"migrate: the QEMU at {uri} on {record.name} (pid {waiting.pid}) has no QMP socket"
                raise RefusedError(message, remedy="start the target with -qmp unix:PATH,server=on,wait=off as well")
        target, socket = await _attach(target_host, record, named)
        stack.push_async_callback(target.close)
        places = (place, Place(record, socket))
        yield Sides(source, target, source_host, target_host, stays_stopped, address.connect, address.bind, places)


async def _attach(host: Host, record: HostRecord, sockets: tuple[str, ...]) -> tuple[Guest, str]:
    """Open the first of these sockets that nobody else holds."""
    held: GodwitError | None = None
    for socket in sockets:
        try:
            return await host.attach(Place(record, socket).vm), socket
        except MonitorBusyError as error:
            held = held or error
        except QemuDiedError as error:
            message = f"no QEMU serves {socket} on {record.name}: {error.message.rpartition(': ')[2]}"
            raise QemuDiedError(message, remedy="see with `ss -xl` on that host which sockets there are") from error
    assert held is not None  # noqa: S101 - there is at least one socket; for the type checker
    raise held
