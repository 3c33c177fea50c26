"""Who certifies the two ends of an encrypted connection, and where hosts keep what they are given for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from godwit.model import CertificateFacts, Credentials, Pair


class Authority(Protocol):
    """The certificate authority of one Godwit. Every call may raise TlsError."""

    @property
    def folder(self) -> str:
        """Where it lies, for people."""
        ...

    async def ensure(self) -> tuple[CertificateFacts, bool]:
        """Make the authority where there is none; says whether it was made now."""
        ...

    async def pair(self, owner: str, host: str, address: str) -> Pair:
        """Certify both ends of `owner`'s connections to `host`, which it reaches at `address`.

        Both certificates and keys are new each time, of nobody but `owner`, and hold for a week; each end trusts the
        authority that has certified the other, and no former one. An authority is made where there is none.
        """
        ...

    async def rotate(self) -> CertificateFacts:
        """Put a new authority in place of the present one, which is destroyed and trusted no more, and return it.

        What was certified before goes on working with what it was given: both of its ends have that.
        """
        ...

    async def current(self) -> CertificateFacts | None:
        """Return the authority, None before its first use."""
        ...

    async def mark(self) -> str:
        """Return a few characters that tell this Godwit from any other, the same for good."""
        ...

    async def is_off(self) -> bool:
        """Say whether moves are not to be encrypted, for good. Raises TlsError where somebody else has said so."""
        ...

    async def switch(self, *, off: bool) -> None:
        """Let moves be encrypted from now on, or not any more."""
        ...


class KeepsCredentials(Protocol):
    """Certificates and keys on a host, as long as something needs them there. Raises HostError."""

    async def put_credentials(self, owner: str, role: str, credentials: Credentials, pid: int | None = None) -> str:
        """Keep one end's credentials for `owner` where only that user can read them as whom process `pid` runs.

        `role` is "server" or "client"; without a process it is the user as whom Godwit logs in, whose own they are in
        any case. Returns the folder, as `tls-creds-x509` wants it. What was kept of the same role is replaced.
        """
        ...

    async def remove_credentials(self, owner: str) -> None:
        """Remove all that is kept for `owner`, and for whatever is called after it, as in `owner.more`. Idempotent.

        Raises HostError where something is left.
        """
        ...

    async def try_handshake(self, owner: str, pair: Pair, address: str, port: int) -> None:
        """Let a server at `address`:`port` and its client meet on this host, encrypted.

        Raises TlsError where they do not, or where somebody without a certificate is let in.
        """
        ...
