"""What two ends of an encrypted connection prove who they are with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Credentials:
    """One end's: the authorities that it trusts, its own certificate, and the key to that, all in PEM.

    They are never written to the journal, a log or a command line.
    """

    authorities: str = field(repr=False)
    certificate: str = field(repr=False)
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends of one move's connections: the target serves, the source comes to it.

    `identity` is the distinguished name of the one client that the target lets in. Both certificates hold from
    `valid_from` until `valid_until`, UNIX seconds.
    """

    identity: str
    server: Credentials
    client: Credentials
    valid_from: float
    valid_until: float


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """One certificate that Godwit keeps: of whom, for which addresses, and for how long (UNIX seconds)."""

    subject: str
    addresses: tuple[str, ...]
    valid_from: float
    valid_until: float
    fingerprint: str
