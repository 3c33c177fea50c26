"""The use cases of certificates: making the authority, certifying hosts, seeing whether encryption works, replacing."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core.trust import Standing, standing, verified_name
from godwit.errors import GodwitError, TlsError
from godwit.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from godwit.model import CertificateFacts, HostRecord
    from godwit.service import Service

_ROTATE: Final = "godwit tls rotate"


@dataclass(frozen=True, slots=True)
class HostCheck:
    """How encryption stands at one host: its certificate, where it takes streams, and what keeps it from working.

    `clock_offset` is the host's clock minus the controller's in seconds. `trouble` is empty where a server and a client
    met there, encrypted.
    """

    host: str
    address: str = ""
    certificate: CertificateFacts | None = None
    clock_offset: float = 0.0
    trouble: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """How encryption stands: the authorities that are trusted, each host, and what is wrong or will be soon."""

    folder: str
    authorities: tuple[CertificateFacts, ...]
    hosts: tuple[HostCheck, ...]
    off: bool
    now: float

    def troubles(self) -> Iterator[tuple[str, str]]:
        """Yield what keeps moves from being encrypted, and the mend."""
        if self.authorities:
            current = self.authorities[0]
            state = standing(current.valid_from, current.valid_until, self.now)
            if state in {Standing.EXPIRED, Standing.EARLY}:
                yield f"the certificate authority in {self.folder} is {state}", _ROTATE
        for one in self.hosts:
            if one.trouble:
                yield f"{one.host}: {one.trouble}", one.remedy

    def warnings(self) -> Iterator[str]:
        """Yield what is to be known, and keeps nobody from anything yet."""
        if self.off:
            yield "encryption is switched off: moves travel in the clear until godwit tls on"
        for authority in self.authorities[:1]:
            left = authority.valid_until - self.now
            if standing(authority.valid_from, authority.valid_until, self.now) is Standing.SOON:
                yield f"the certificate authority ends in {format_duration(left)}: {_ROTATE}"
        for one in self.hosts:
            certificate = one.certificate
            if certificate is None:
                continue
            state = standing(certificate.valid_from, certificate.valid_until, self.now + one.clock_offset)
            if state is Standing.EARLY:
                yield f"{one.host}: its clock is too far behind for its certificate: set it"
            elif state is not Standing.GOOD:
                yield f"{one.host}: its certificate {state}; the next move to it makes out another"


@dataclass(frozen=True, slots=True)
class Encryption:
    """What people ask of certificates, over the service. Every call may raise TlsError."""

    service: Service

    async def begin(self) -> tuple[CertificateFacts, bool]:
        """Make the authority where there is none; says whether it was made now."""
        return await self.service.authority.ensure()

    async def issue(self, name: str) -> CertificateFacts:
        """Make out a new certificate for a host and its migration address. Raises UnknownHostError, HostError."""
        record = await self.service.inventory.host(name)
        facts = await self.service.check_host(record.name)
        return await self.service.authority.certify(record.name, facts.migration_address)

    async def check(self, names: Sequence[str]) -> Checked:
        """See how the authority stands, and whether encryption works at these hosts. Raises UnknownHostError."""
        records = [await self.service.inventory.host(name) for name in names]
        authority = self.service.authority
        if records:
            await authority.ensure()
        hosts = await asyncio.gather(*(self._check_host(record) for record in records))
        return Checked(
            folder=authority.folder,
            authorities=await authority.trusted(),
            hosts=tuple(hosts),
            off=await authority.is_off(),
            now=self.service.clock.now(),
        )

    async def _check_host(self, record: HostRecord) -> HostCheck:
        host = self.service.open_host(record)
        owner = f"tls-check-{secrets.token_hex(4)}"
        try:
            await host.connect()
            facts, port = await asyncio.gather(host.facts(), host.free_port())
            pair = await self.service.authority.pair(owner, record.name, facts.migration_address)
            certificate = (await self.service.authority.hosts()).get(record.name)
            said = HostCheck(record.name, facts.migration_address, certificate, facts.clock_offset)
            try:
                await host.try_handshake(owner, pair, verified_name(facts.migration_address), port)
            except TlsError as error:
                return HostCheck(*_told(said), error.message, error.remedy)
        except GodwitError as error:
            return HostCheck(record.name, trouble=error.message, remedy=error.remedy)
        finally:
            await host.close()
        return said

    async def rotate(self, *, at_once: bool = False) -> tuple[CertificateFacts, tuple[str, ...]]:
        """Replace the authority; returns it with the hosts that were certified anew."""
        return await self.service.authority.rotate(at_once=at_once)

    async def switch(self, *, off: bool) -> None:
        """Let moves that are asked for from now on be encrypted, or travel in the clear."""
        await self.service.authority.switch(off=off)


def _told(check: HostCheck) -> tuple[str, str, CertificateFacts | None, float]:
    return check.host, check.address, check.certificate, check.clock_offset
