"""The use cases of certificates: making the authority, seeing whether encryption works, pairs for use by hand."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.trust import DH_PARAMETERS, Standing, standing, verified_name
from godwit.engine.carrying import whole
from godwit.engine.keys import patiently
from godwit.errors import GodwitError, TlsError
from godwit.localfiles import write_new
from godwit.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from godwit.model import CertificateFacts, HostRecord
    from godwit.ports import Host
    from godwit.service import Service

_ROTATE: Final = "godwit tls rotate"
_BY_HAND: Final = "when the host answers, remove the folder of that name below /run/godwit-tls"


@dataclass(frozen=True, slots=True)
class HostCheck:
    """How encryption stands at one host: where it takes streams, and what keeps it from working.

    `trouble` is empty where a server and a client met there, encrypted.
    """

    host: str
    address: str = ""
    trouble: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """How encryption stands: the authority (None before its first use), each host, what is wrong or will be soon."""

    folder: str
    authority: CertificateFacts | None
    hosts: tuple[HostCheck, ...]
    off: bool
    now: float

    def troubles(self) -> Iterator[tuple[str, str]]:
        """Yield what keeps moves from being encrypted, and the mend."""
        if self.authority is not None:
            state = standing(self.authority.valid_from, self.authority.valid_until, self.now)
            if state in {Standing.EXPIRED, Standing.EARLY}:
                yield f"the certificate authority in {self.folder} is {state}", _ROTATE
        for one in self.hosts:
            if one.trouble:
                yield f"{one.host}: {one.trouble}", one.remedy

    def warnings(self) -> Iterator[str]:
        """Yield what is to be known, and keeps nobody from anything yet."""
        if self.off:
            yield "encryption is switched off: moves travel in the clear until godwit tls on"
        if self.authority is not None:
            left = self.authority.valid_until - self.now
            if standing(self.authority.valid_from, self.authority.valid_until, self.now) is Standing.SOON:
                yield f"the certificate authority ends in {format_duration(left)}: {_ROTATE}"


@dataclass(frozen=True, slots=True)
class Issued:
    """Credentials for use by hand: for which host and address, where they lie, whom a server is to let in by them."""

    host: str
    address: str
    folder: str
    files: tuple[str, ...]
    identity: str
    valid_until: float


@dataclass(frozen=True, slots=True)
class Encryption:
    """What people ask of certificates, over the service. Every call may raise TlsError."""

    service: Service

    async def begin(self) -> tuple[CertificateFacts, bool]:
        """Make the authority where there is none; says whether it was made now."""
        return await self.service.authority.ensure()

    async def issue(self, name: str, folder: Path) -> Issued:
        """Write credentials of both ends of a connection to a host into a folder, for who uses QEMU by hand.

        Raises UnknownHostError, HostError; InputError for a folder that others can read, or that has such files.
        """
        record = await self.service.inventory.host(name)
        address = (await self.service.check_host(record.name)).migration_address
        pair = await self.service.authority.pair(f"by-hand-{secrets.token_hex(4)}", record.name, address)
        texts = {
            "ca-cert.pem": pair.server.authorities,
            "server-cert.pem": pair.server.certificate,
            "server-key.pem": pair.server.key,
            "dh-params.pem": DH_PARAMETERS,
            "client-cert.pem": pair.client.certificate,
            "client-key.pem": pair.client.key,
        }
        await asyncio.to_thread(write_new, folder, texts)
        return Issued(record.name, address, str(folder), tuple(texts), pair.identity, pair.valid_until)

    async def check(self, names: Sequence[str]) -> Checked:
        """See how the authority stands, and whether encryption works at these hosts. Raises UnknownHostError.

        Whoever is cancelled leaves no keys on hosts; TlsError in place of CancelledError names those that may be left.
        """
        records = [await self.service.inventory.host(name) for name in names]
        authority = self.service.authority
        if records:
            await authority.ensure()
        left: list[str] = []
        try:
            async with asyncio.TaskGroup() as tasks:  # which waits for all, however it ends
                checks = [tasks.create_task(self._check_host(record, left)) for record in records]
        except asyncio.CancelledError:
            if left:
                raise TlsError("; ".join(left), remedy=_BY_HAND) from None
            raise
        return Checked(
            folder=authority.folder,
            authority=await authority.current(),
            hosts=tuple(check.result() for check in checks),
            off=await authority.is_off(),
            now=self.service.clock.now(),
        )

    async def _check_host(self, record: HostRecord, left: list[str]) -> HostCheck:
        """Let two ends meet on a host; `left` takes what keys may stay there."""
        host = self.service.open_host(record)
        address = ""
        try:
            await host.connect()
            facts, port = await asyncio.gather(host.facts(), host.free_port())
            address = facts.migration_address
            trouble = await whole(self._tried(host, address, port, left))
        except GodwitError as error:
            trouble = error
        finally:
            await host.close()
        said = HostCheck(record.name, address)
        return said if trouble is None else replace(said, trouble=trouble.message, remedy=trouble.remedy)

    async def _tried(self, host: Host, address: str, port: int, left: list[str]) -> GodwitError | None:
        """Let both ends of a connection meet, and see that no keys stay; return what is wrong."""
        owner = f"tls-check-{secrets.token_hex(4)}"
        trouble: GodwitError | None = None
        try:
            pair = await self.service.authority.pair(owner, host.name, address)
            await host.try_handshake(owner, pair, verified_name(address), port)
        except GodwitError as error:
            trouble = error
        try:
            await patiently(self.service.clock, lambda: host.remove_credentials(owner))
        except GodwitError as error:
            left.append(f"keys of this check ({owner}) may be left on {host.name} until it boots: {error.message}")
            first = f"{trouble.message}; " if trouble else ""
            trouble = TlsError(first + left[-1], remedy=_BY_HAND)
        return trouble

    async def rotate(self) -> CertificateFacts:
        """Replace the authority, and return the new one."""
        return await self.service.authority.rotate()

    async def switch(self, *, off: bool) -> None:
        """Let moves that are asked for from now on be encrypted, or travel in the clear."""
        await self.service.authority.switch(off=off)
