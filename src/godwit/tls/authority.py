"""The authority itself: made at first use, it certifies both ends of each move, for that move alone, for a week.

Nothing is kept of hosts and moves: whatever leaves this folder was made for one move, and has all that this move ever
needs. So a new authority is in use everywhere as soon as it is made, what is under way goes on with what it has, and
nobody need trust the former one.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from godwit.core.trust import AUTHORITY_LIFE, MOVE_LIFE, Standing, common_name, distinguished_name, standing
from godwit.errors import TlsError
from godwit.model import Credentials, Pair
from godwit.tls.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from godwit.model import CertificateFacts
    from godwit.ports import Clock
    from godwit.tls.certificates import Certified

T = TypeVar("T")

FOLDER: Final = "tls"
_CURRENT: Final = "ca.pem"
_OFF: Final = "off"
_MARK: Final = "mark"
_IS_MARK: Final = re.compile(r"[0-9a-f]{8}").fullmatch
_ROTATE: Final = "godwit tls rotate"

_LEFTOVERS: Final = ("former-ca.pem",)
_LEFTOVER_FOLDER: Final = "hosts"
"""What earlier versions kept: an authority that was replaced, and keys of hosts that held for a year."""


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

    async def rotate(self) -> CertificateFacts:
        """Put a new authority in place of whatever there is, and return it; see the port."""
        return await self._locked(lambda: self._make(self.clock.now()).facts)

    async def current(self) -> CertificateFacts | None:
        """Return the authority, None before its first use."""

        def read() -> CertificateFacts | None:
            found = self._current()
            return None if found is None else found.facts

        return await asyncio.to_thread(read)

    async def mark(self) -> str:
        """Return what tells this Godwit from any other; made at first use."""
        return await self._locked(self._marked)

    async def is_off(self) -> bool:
        """Say whether moves are not to be encrypted, for good: only the owner can have said so."""
        return await asyncio.to_thread(self._store.holds, _OFF)

    async def switch(self, *, off: bool) -> None:
        """Let moves be encrypted from now on, or not any more."""
        await self._locked(lambda: self._store.write(_OFF, "off\n") if off else self._store.remove(_OFF))

    async def _locked(self, work: Callable[[], T]) -> T:
        def done() -> T:
            with self._store.locked():
                self._tidy()
                return work()

        return await asyncio.to_thread(done)

    # -- with the lock held, in a thread ---------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Remove what earlier versions kept: nobody needs it, and its keys are good for a long time."""
        for name in _LEFTOVERS:
            self._store.remove(name)
        self._store.remove_folder(_LEFTOVER_FOLDER)

    def _ensured(self, now: float) -> tuple[CertificateFacts, bool]:
        found = self._current()
        return (self._make(now).facts, True) if found is None else (found.facts, False)

    def _marked(self) -> str:
        mark = (self._store.read(_MARK) or "").strip()
        if not _IS_MARK(mark):
            mark = secrets.token_hex(4)
            self._store.write(_MARK, f"{mark}\n")
        return mark

    def _make(self, now: float) -> Certified:
        from godwit.tls.certificates import make_authority  # noqa: PLC0415 - loads what only this needs

        made = make_authority(f"Godwit {secrets.token_hex(4)}", now, AUTHORITY_LIFE)
        self._store.write(_CURRENT, made.pem)
        return made

    def _current(self) -> Certified | None:
        from godwit.tls.certificates import read  # noqa: PLC0415 - as above

        text = self._store.read(_CURRENT)
        return None if text is None else read(text, f"{self.folder}/{_CURRENT}")

    def _usable(self, now: float) -> Certified:
        """Return the authority, made where there is none. Raises TlsError for one that has expired."""
        current = self._current() or self._make(now)
        facts = current.facts
        if standing(facts.valid_from, facts.valid_until, now) in {Standing.EXPIRED, Standing.EARLY}:
            message = f"the certificate authority in {self.folder} does not hold now"
            raise TlsError(message, remedy=f"{_ROTATE}; or see whether this machine's clock is right")
        return current

    def _pair(self, owner: str, host: str, address: str, now: float) -> Pair:
        from godwit.tls.certificates import CLIENT, SERVER, issue  # noqa: PLC0415 - as above

        authority = self._usable(now)
        server = issue(authority, common_name(host), SERVER, (address,), now, MOVE_LIFE)
        client = issue(authority, common_name(owner), CLIENT, (), now, MOVE_LIFE)
        known = authority.certificate_pem
        return Pair(
            identity=distinguished_name(owner),
            server=Credentials(known, server.certificate_pem, server.key_pem),
            client=Credentials(known, client.certificate_pem, client.key_pem),
            valid_from=max(server.facts.valid_from, client.facts.valid_from),
            valid_until=min(server.facts.valid_until, client.facts.valid_until),
        )
