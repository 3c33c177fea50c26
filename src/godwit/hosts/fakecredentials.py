"""A simulated certificate authority, and what simulated hosts and QEMUs have of it: certificates that are words.

Nothing is enciphered. What is simulated is who trusts whom: an end that lacks its credentials, that trusts another
authority, has another address or another name than the one that is let in, does not get through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.core.capabilities import TLS_UNSET
from godwit.core.trust import (
    AUTHORITY_LIFE,
    BACKDATED,
    MOVE_LIFE,
    Standing,
    distinguished_name,
    standing,
    verified_name,
)
from godwit.errors import HostError, TlsError
from godwit.model import CertificateFacts, Credentials, Pair
from godwit.storage.sharedproof import check_token

if TYPE_CHECKING:
    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.hosts.fakeworld import FakeWorld
    from godwit.ports import Clock


@dataclass(slots=True)
class FakeAuthority:
    """Certifies by writing down what it certifies. Implements `godwit.ports.Authority`."""

    clock: Clock
    folder: str = "/simulated/tls"
    authority: CertificateFacts | None = None
    off: bool = False
    name: str = "Godwit"
    _made: int = 0

    def _facts(self, subject: str, addresses: tuple[str, ...], life: float) -> CertificateFacts:
        self._made += 1
        now = self.clock.now()
        return CertificateFacts(subject, addresses, now - BACKDATED, now + life, f"{self.name}-{self._made}")

    async def ensure(self) -> tuple[CertificateFacts, bool]:
        """Make the authority where there is none."""
        if self.authority is None:
            return await self.rotate(), True
        return self.authority, False

    async def pair(self, owner: str, host: str, address: str) -> Pair:
        """Certify both ends of `owner`'s connections to `host`."""
        authority, _ = await self.ensure()
        if standing(authority.valid_from, authority.valid_until, self.clock.now()) is Standing.EXPIRED:
            message = f"the certificate authority in {self.folder} does not hold now"
            raise TlsError(message, remedy="godwit tls rotate")
        server = self._facts(host, (verified_name(address),), MOVE_LIFE)
        client = self._facts(distinguished_name(owner), (), MOVE_LIFE)
        trusted = json.dumps([authority.fingerprint])
        return Pair(
            client.subject,
            Credentials(trusted, _words(authority, server), f"key of {server.fingerprint}"),
            Credentials(trusted, _words(authority, client), f"key of {client.fingerprint}"),
            client.valid_from,
            client.valid_until,
        )

    async def rotate(self) -> CertificateFacts:
        """Put a new authority in place."""
        self.authority = self._facts(f"{self.name} {self._made}", (), AUTHORITY_LIFE)
        return self.authority

    async def current(self) -> CertificateFacts | None:
        """Return the authority."""
        return self.authority

    async def mark(self) -> str:
        """Tell this Godwit from others."""
        return self.name.lower()

    async def is_off(self) -> bool:
        """Say whether moves are not to be encrypted."""
        return self.off

    async def switch(self, *, off: bool) -> None:
        """Let moves be encrypted, or not."""
        self.off = off


def _words(authority: CertificateFacts, facts: CertificateFacts) -> str:
    said = {"issuer": authority.fingerprint, "subject": facts.subject, "addresses": list(facts.addresses)}
    return json.dumps(said | {"from": facts.valid_from, "until": facts.valid_until})


def refused(server: Credentials | None, client: Credentials | None, let_in: str, address: str, now: float) -> str:
    """Return why two ends do not come together, in the words of whoever refuses; empty where they do."""
    if server is None or client is None:
        return "" if server is client else "TLS handshake failed: one end speaks plainly, and the other does not"
    theirs, ours = json.loads(server.certificate), json.loads(client.certificate)
    name = verified_name(address)
    both = ((theirs, client), (ours, server))
    reasons = (
        (any(one["issuer"] not in json.loads(other.authorities) for one, other in both), "certificate issuer unknown"),
        (any(not one["from"] <= now < one["until"] for one, _ in both), "The certificate does not hold at this time"),
        (name not in theirs["addresses"], f"Certificate does not match the hostname {name}"),
        (let_in != ours["subject"], f"TLS x509 authz check for {ours['subject']} is denied"),
    )
    return next((words for holds, words in reasons if holds), "")


class FakeKeeping:
    """The part of the port `Host` that keeps credentials: by owner and role."""

    world: FakeWorld

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.credentials: dict[tuple[str, str], Credentials] = {}
        self.has_tls = True

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        raise NotImplementedError

    def time(self) -> float:
        """Return what this host's clock shows."""
        raise NotImplementedError

    async def _reach(self) -> None:
        raise NotImplementedError

    async def put_credentials(self, owner: str, role: str, credentials: Credentials, pid: int | None = None) -> str:
        """Keep one end's credentials for `owner`."""
        del pid
        await self._reach()
        if self.name in self.world.full:
            message = f"{self.name} cannot keep the keys of {owner}: No space left on device"
            raise HostError(message)
        self.credentials[check_token(owner), role] = credentials
        return f"/run/godwit-tls/{owner}"

    async def remove_credentials(self, owner: str) -> None:
        """Remove all that is kept for `owner`, and for what is called after it."""
        await self._reach()
        for key in [key for key in self.credentials if f"{key[0]}.".startswith(f"{owner}.")]:
            del self.credentials[key]

    async def try_handshake(self, owner: str, pair: Pair, address: str, port: int) -> None:
        """Let a server and a client of this host meet; who is cut off before the answer leaves the keys of both."""
        del port
        check_token(owner)
        await self._reach()
        self.credentials |= {(owner, "server"): pair.server, (owner, "client"): pair.client}
        await self._reach()
        del self.credentials[owner, "server"], self.credentials[owner, "client"]
        words = refused(pair.server, pair.client, pair.identity, address, self.time())
        if not self.has_tls:
            words = "TLS credentials support requires GNUTLS"
        if words:
            message = f"a trial of encryption on {self.name} at {address} failed: {words}"
            raise TlsError(message, remedy="install a QEMU that is built with GnuTLS there")


class FakeTls:
    """What a simulated QEMU has of TLS: its keys, and who is let in with theirs."""

    def __init__(self, qemu: FakeQemu) -> None:
        """Speak plainly."""
        self._qemu = qemu
        self.keys: Credentials | None = None
        self.let_in = ""

    def use(self, folder: str, let_in: str, far: str) -> None:
        """Obey object-add and migrate-set-parameters: encrypt from now on with the keys that lie in a folder."""
        owner, role = folder.rpartition("/")[2], "server" if let_in else "client"
        if not self._qemu.host.has_tls:
            self._qemu.refuse("object-add", "TLS credentials support requires GNUTLS")
        if (owner, role) not in self._qemu.host.credentials:
            self._qemu.refuse("object-add", f"Unable to access credentials {folder}/{role}-cert.pem: No such file")
        self.keys, self.let_in = self._qemu.host.credentials[owner, role], let_in
        self._qemu.parameters |= {
            "tls-creds": "godwit-tls",
            "tls-authz": let_in and "godwit-let-in",
            "tls-hostname": far,
        }

    def forget(self) -> None:
        """Obey migrate-set-parameters and object-del."""
        self._qemu.parameters |= TLS_UNSET
        self.keys, self.let_in = None, ""

    def shown(self, *, encrypted: bool) -> Credentials | None:
        """Return what this end of a connection shows; None where it speaks plainly."""
        if encrypted and self.keys is None:
            self._qemu.refuse("object-add", "No TLS credentials with id 'godwit-tls'")
        return self.keys if encrypted else None

    def kept_out(self, target: FakeQemu, uri: str) -> str:
        """Return why a target does not take a stream from here; a plain one ends of one that is no stream."""
        server = target.tls.shown(encrypted=bool(target.parameters["tls-creds"]))
        client = self.shown(encrypted=bool(self._qemu.parameters["tls-creds"]))
        far = str(self._qemu.parameters["tls-hostname"]) or uri.removeprefix("tcp:").rpartition(":")[0]
        words = refused(server, client, target.tls.let_in, far, target.host.time()) if uri.startswith("tcp:") else ""
        if words and server is None:
            target.exit("load of migration failed: Not a migration stream")
        return words
