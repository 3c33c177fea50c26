"""The authority itself: made at first use, it certifies each host for its migration address and each move for a week.

No host keeps a key of it: whatever a host needs is put there for the length of a move, and removed with it. So a new
authority is in use everywhere as soon as it is made. The former one is trusted for as long as a move's certificate
lasts, so that whatever is under way goes on; its own key is destroyed at once.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from godwit.core.trust import (
    AUTHORITY_LIFE,
    BACKDATED,
    HOST_LIFE,
    MOVE_LIFE,
    SOON,
    Standing,
    common_name,
    distinguished_name,
    standing,
)
from godwit.errors import TlsError
from godwit.model import CertificateFacts, Credentials, Pair
from godwit.tls.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from godwit.ports import Clock
    from godwit.tls.certificates import Certified

T = TypeVar("T")

FOLDER: Final = "tls"
_CURRENT, _FORMER = "ca.pem", "former-ca.pem"
_HOSTS: Final = "hosts"
_PEM: Final = ".pem"
_OFF: Final = "off"
_ROTATE: Final = "godwit tls rotate"


@dataclass(frozen=True, slots=True)
class HomeAuthority:
    """The authority in a home folder. Implements `godwit.ports.Authority`; every call may raise TlsError."""

    home: Path
    clock: Clock

    @property
    def folder(self) -> str:
        """Where it lies."""
        return str(self._store.folder)

    @property
    def _store(self) -> Store:
        return Store(self.home / FOLDER)

    async def ensure(self) -> tuple[CertificateFacts, bool]:
        """Make the authority where there is none; says whether it was made now."""
        return await self._locked(lambda: self._ensured(self.clock.now()))

    async def pair(self, owner: str, host: str, address: str) -> Pair:
        """Certify both ends of `owner`'s connections to `host` at `address`; see the port."""
        return await self._locked(lambda: self._pair(owner, host, address, self.clock.now()))

    async def certify(self, host: str, address: str) -> CertificateFacts:
        """Make out a new certificate for a host, whatever it had."""
        return await self._locked(lambda: self._certified(host, address, self.clock.now(), anew=True).facts)

    async def rotate(self, *, at_once: bool = False) -> tuple[CertificateFacts, tuple[str, ...]]:
        """Put a new authority in place, and return it with the hosts that were certified anew; see the port."""
        return await self._locked(lambda: self._rotate(self.clock.now(), at_once=at_once))

    async def trusted(self) -> tuple[CertificateFacts, ...]:
        """Return the authorities that are trusted now, the newest first; none before the first use."""
        return await asyncio.to_thread(lambda: tuple(one.facts for one in self._trusted(self.clock.now())))

    async def hosts(self) -> dict[str, CertificateFacts]:
        """Return the hosts' certificates by name."""
        return await asyncio.to_thread(self._hosts)

    async def forget(self, host: str) -> None:
        """Remove what is kept of a host. Idempotent."""
        if self._store.folder.is_dir():
            await self._locked(lambda: self._forget(host))

    async def is_off(self) -> bool:
        """Say whether moves are not to be encrypted, for good."""
        return await asyncio.to_thread((self._store.folder / _OFF).exists)

    async def switch(self, *, off: bool) -> None:
        """Let moves be encrypted from now on, or not any more."""
        await self._locked(lambda: self._store.write(_OFF, "off\n") if off else self._store.remove(_OFF))

    async def _locked(self, work: Callable[[], T]) -> T:
        def done() -> T:
            with self._store.locked():
                return work()

        return await asyncio.to_thread(done)

    # -- with the lock held, in a thread ---------------------------------------------------------------------------

    def _ensured(self, now: float) -> tuple[CertificateFacts, bool]:
        found = self._current()
        return (self._make(now).facts, True) if found is None else (found.facts, False)

    def _make(self, now: float) -> Certified:
        from godwit.tls.certificates import make_authority  # noqa: PLC0415 - loads what only this needs

        made = make_authority(f"Godwit {secrets.token_hex(4)}", now, AUTHORITY_LIFE)
        self._store.write(_CURRENT, made.pem)
        return made

    def _current(self) -> Certified | None:
        from godwit.tls.certificates import read  # noqa: PLC0415 - as above

        text = self._store.read(_CURRENT)
        return None if text is None else read(text, f"{self.folder}/{_CURRENT}")

    def _trusted(self, now: float) -> tuple[Certified, ...]:
        from godwit.tls.certificates import read  # noqa: PLC0415 - as above

        current = self._current()
        if current is None:
            return ()
        text = self._store.read(_FORMER)
        replaced = current.facts.valid_from + BACKDATED
        if text is None or now >= replaced + MOVE_LIFE:
            return (current,)
        former = read(text, f"{self.folder}/{_FORMER}")
        # QEMU takes no file of authorities one of which has expired.
        return (current, former) if former.facts.valid_until > now else (current,)

    def _usable(self, now: float) -> Certified:
        """Return the authority, made where there is none. Raises TlsError for one that has expired."""
        current = self._current() or self._make(now)
        facts = current.facts
        if standing(facts.valid_from, facts.valid_until, now) in {Standing.EXPIRED, Standing.EARLY}:
            message = f"the certificate authority in {self.folder} does not hold now"
            raise TlsError(message, remedy=f"{_ROTATE}; or see whether this machine's clock is right")
        return current

    def _pair(self, owner: str, host: str, address: str, now: float) -> Pair:
        from godwit.tls.certificates import CLIENT, issue  # noqa: PLC0415 - as above

        authority = self._usable(now)
        server = self._certified(host, address, now)
        client = issue(authority, common_name(owner), CLIENT, (), now, MOVE_LIFE)
        authorities = "".join(one.certificate_pem for one in self._trusted(now))
        return Pair(
            identity=distinguished_name(owner),
            server=Credentials(authorities, server.certificate_pem, server.key_pem),
            client=Credentials(authorities, client.certificate_pem, client.key_pem),
            valid_from=max(server.facts.valid_from, client.facts.valid_from),
            valid_until=min(server.facts.valid_until, client.facts.valid_until),
        )

    def _certified(self, host: str, address: str, now: float, *, anew: bool = False) -> Certified:
        """Return a host's certificate: the one it has if that is good for long enough, and for this address."""
        from godwit.tls.certificates import SERVER, issue, plain_address  # noqa: PLC0415 - as above

        authority = self._usable(now)
        known = self._host(host)
        if known is not None and not anew and authority.issued(known):
            facts = known.facts
            lasting = facts.valid_from <= now and facts.valid_until - now >= min(SOON, MOVE_LIFE)
            ends_with_it = facts.valid_until >= authority.facts.valid_until
            if plain_address(address) in facts.addresses and (lasting or ends_with_it):
                return known
        made = issue(authority, host, SERVER, (address,), now, HOST_LIFE)
        self._store.write(_file_of(host), made.pem)
        return made

    def _host(self, host: str) -> Certified | None:
        """Return what is kept of a host."""
        from godwit.tls.certificates import read  # noqa: PLC0415 - as above

        text = self._store.read(_file_of(host))
        return None if text is None else read(text, f"{self.folder}/{_file_of(host)}")

    def _hosts(self) -> dict[str, CertificateFacts]:
        names = [name.removesuffix(_PEM) for name in self._store.names(_HOSTS) if name.endswith(_PEM)]
        found = {name: self._host(name) for name in names}
        return {name: certified.facts for name, certified in found.items() if certified is not None}

    def _forget(self, host: str) -> None:
        self._store.remove(_file_of(host))

    def _rotate(self, now: float, *, at_once: bool) -> tuple[CertificateFacts, tuple[str, ...]]:
        before = None if at_once else self._current()
        names = [name.removesuffix(_PEM) for name in self._store.names(_HOSTS) if name.endswith(_PEM)]
        if before is None:
            self._store.remove(_FORMER)
        else:
            self._store.write(_FORMER, before.certificate_pem)
        known = {} if at_once else self._hosts()
        made = self._make(now)
        for name in names:
            if name in known and known[name].addresses:
                self._certified(name, known[name].addresses[0], now)
            else:  # it is made out anew when it is needed
                self._forget(name)
        return made.facts, tuple(sorted(known))


def _file_of(host: str) -> str:
    return f"{_HOSTS}/{host}{_PEM}"
