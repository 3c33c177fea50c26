"""Encrypting what QEMU sends and takes: its objects for one move's credentials, and who may come to it.

Measured on QEMU 10.0.2: an object reads its files when it is made, and whoever uses it keeps it as long as needed, so
it may be removed under a connection. A stranger who comes first to a port behind it, with garbage, silent, or with a
certificate that is good but another's, is turned away, and the port goes on waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import TLS_UNSET
from godwit.errors import HypervisorError, MonitorCommandError

if TYPE_CHECKING:
    from godwit.qemu.qom import Asks

CREDENTIALS: Final = "godwit-tls"
LET_IN: Final = "godwit-let-in"

STRANGERS: Final = 64
"""Connections beyond those that are needed: whoever is not let in cannot keep out who is."""

_LACKING: Final = ("GNUTLS", "does not accept value", "invalid object type")
_MEND: Final = "install a QEMU that is built with GnuTLS, or move it unencrypted: --plaintext"


async def use(monitor: Asks, folder: str, *, let_in: str = "", far: str = "") -> None:
    """Encrypt the next stream with the credentials in `folder`, and let disks be served and copied with them.

    A server has the distinguished name of the one client that it is to `let_in`; a client the name that its server, the
    `far` end, must have. Raises HypervisorError where this QEMU cannot encrypt, or does not take the files.
    """
    tls = {"qom-type": "tls-creds-x509", "id": CREDENTIALS, "dir": folder, "verify-peer": True}
    try:
        await _add(monitor, {**tls, "endpoint": "server" if let_in else "client"})
    except MonitorCommandError as error:
        lacking = any(words in error.message for words in _LACKING)
        raise HypervisorError(error.message, remedy=_MEND if lacking else "godwit tls check") from error
    if let_in:
        rule = {"match": let_in, "policy": "allow", "format": "exact"}
        listed: dict[str, object] = {"qom-type": "authz-list", "id": LET_IN, "policy": "deny", "rules": [rule]}
        await _add(monitor, listed)
    parameters = {"tls-creds": CREDENTIALS, "tls-authz": LET_IN} if let_in else {"tls-creds": CREDENTIALS}
    if far:
        parameters["tls-hostname"] = far
    await monitor.execute("migrate-set-parameters", parameters)


async def _add(monitor: Asks, described: dict[str, object]) -> None:
    """Make an object, in place of one that a move has left whose end nobody saw."""
    try:
        await monitor.execute("object-add", described)
    except MonitorCommandError as error:
        if "duplicate" not in error.message:
            raise
        await monitor.execute("object-del", {"id": described["id"]})
        await monitor.execute("object-add", described)


async def forget(monitor: Asks) -> None:
    """Let nothing be encrypted with them any more. Idempotent."""
    try:
        await monitor.execute("migrate-set-parameters", dict(TLS_UNSET))
    except MonitorCommandError as error:
        if "unexpected" not in error.message and "Invalid parameter" not in error.message:  # before 4.0: no tls-authz
            raise
        await monitor.execute("migrate-set-parameters", {"tls-creds": "", "tls-hostname": ""})
    await _remove(monitor)


async def _remove(monitor: Asks) -> None:
    for name in (CREDENTIALS, LET_IN):
        try:
            await monitor.execute("object-del", {"id": name})
        except MonitorCommandError as error:
            if "not found" not in error.message:
                raise


def served(encrypted: bool) -> dict[str, object]:  # noqa: FBT001 - what is said of a server
    """Return what an NBD server is told besides where it is to listen."""
    return {"tls-creds": CREDENTIALS, "tls-authz": LET_IN} if encrypted else {}


def reached(address: str, name: str, encrypted: bool) -> dict[str, object]:  # noqa: FBT001 - as above
    """Return what an NBD client is told besides where the server is; `name` is what that must be called."""
    if not encrypted:
        return {}
    return {"tls-creds": CREDENTIALS, **({} if name == address else {"tls-hostname": name})}
