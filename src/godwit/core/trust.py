"""Certificates: how long each kind holds, what they are called, and when one is to be replaced. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from godwit.model import Spec

DAY: Final = 86400.0

AUTHORITY_LIFE: Final = 3650 * DAY
"""Seconds for which a certificate authority holds."""

MOVE_LIFE: Final = 7 * DAY
"""Seconds for which the certificates of one move hold: its connections are begun with them, and mended, so long."""

DH_PARAMETERS: Final = """\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group ffdhe2048 of RFC 7919, as GnuTLS reads it.

A QEMU that serves and finds none looks for a prime of its own (qcrypto_tls_creds_get_dh_params_file() in
crypto/tlscreds.c, gone from its latest versions): 0.1 to 1 s of a core, and more than 10 s of a busy one, in which it
answers nobody. No connection of ours uses the group: keys are agreed on elliptic curves.
"""

BACKDATED: Final = DAY
"""Seconds by which certificates begin before they are made: a host's clock may be behind."""

SOON: Final = 30 * DAY
"""Seconds before its end at which a certificate is replaced, or somebody is told."""

_LONGEST_NAME: Final = 64
"""Characters that a common name may have (ub-common-name in RFC 5280)."""


def encrypts(spec: Spec) -> bool:
    """Say whether a move is to be encrypted: not where that was declined, left to QEMU, or nothing leaves the host."""
    return not (spec.policy.plaintext or spec.defaults or spec.upgrade is not None)


class Standing(StrEnum):
    """Whether a certificate can be used."""

    GOOD = "good"
    SOON = "ends soon"
    EXPIRED = "expired"
    EARLY = "does not hold yet"


def standing(valid_from: float, valid_until: float, now: float) -> Standing:
    """Say how a certificate stands at an instant; all are UNIX seconds."""
    if now < valid_from:
        return Standing.EARLY
    if now >= valid_until:
        return Standing.EXPIRED
    return Standing.SOON if valid_until - now < SOON else Standing.GOOD


def common_name(identifier: str) -> str:
    """Return the name of a move's certificate: its identifier, or where that is too long its beginning and digest."""
    if len(identifier) <= _LONGEST_NAME:
        return identifier
    digest = hashlib.sha256(identifier.encode()).hexdigest()[:24]
    return f"{identifier[: _LONGEST_NAME - len(digest) - 1]}-{digest}"


def distinguished_name(identifier: str) -> str:
    """Return what QEMU calls the client of a move: what its list of those it lets in is compared with."""
    return f"CN={common_name(identifier)}"


def verified_name(address: str) -> str:
    """Return the name that a client checks a server's certificate for, at this address: one without its zone.

    The zone of a link-local address is a matter of the host that says it, and no certificate can hold it.
    """
    return address.strip("[]").partition("%")[0]


def is_numeric(name: str) -> bool:
    """Say whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
