"""The power of a machine by its management controller, over Redfish (DMTF DSP0266: ComputerSystem and its Reset).

HTTPS with the standard library: no redirect is followed, so that the password goes nowhere else, and answers are read
up to a limit. TLS is verified unless the record says otherwise; plain HTTP is refused in any case.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from godwit.errors import FenceError

if TYPE_CHECKING:
    from godwit.model import Redfish

TIMEOUT: Final = 10.0
"""Seconds that one request may take."""

LARGEST: Final = 1 << 20
"""Bytes of an answer that are read at most."""

_SYSTEMS: Final = "/redfish/v1/Systems"
_FORCE_OFF: Final = "ForceOff"
_OFF: Final = "Off"
_BAD: Final = 400
_READABLE_BY_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def password_of(record: Redfish) -> str:
    """Read the password that a record points to. Raises FenceError saying where it is not."""
    if record.password_variable is not None:
        password = os.environ.get(record.password_variable)
        if not password:
            message = f"the environment variable {record.password_variable} is not set"
            raise FenceError(message, remedy=f"export {record.password_variable}, or name a file with --password-file")
        return password
    if record.password_file is None:
        return ""
    path = Path(record.password_file)
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & _READABLE_BY_OTHERS:
                message = f"others than its owner may read the password in {path}"
                raise FenceError(message, remedy=f"chmod 600 {path}, and think of changing the password")
            return file.readline(LARGEST).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        message = f"the password in {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise FenceError(message, remedy="write it there, in one line, with mode 0600") from error


@dataclass(frozen=True, slots=True)
class Controller:
    """One management controller; every call blocks for at most TIMEOUT seconds a request. Raises FenceError."""

    record: Redfish

    def power_state(self) -> str:
        """Return what it says of the machine's power: "On", "Off", "PoweringOff" or the like."""
        return _power(self._system()[1], self.record.url)

    def force_off(self) -> None:
        """Cut the machine's power; that it was accepted proves nothing yet."""
        path, system = self._system()
        actions = system.get("Actions")
        reset = actions.get("#ComputerSystem.Reset") if isinstance(actions, dict) else None
        target = reset.get("target") if isinstance(reset, dict) else None
        if not isinstance(target, str) or not target.startswith("/") or target.startswith("//"):
            target = f"{path}/Actions/ComputerSystem.Reset"
        allowed = reset.get("ResetType@Redfish.AllowableValues") if isinstance(reset, dict) else None
        if isinstance(allowed, list) and _FORCE_OFF not in allowed:
            message = f"{self.record.url} cannot force power off: it knows {', '.join(map(str, allowed[:12]))}"
            raise FenceError(message, remedy="use a fencing command in its place: godwit host fencing --help")
        self._ask("POST", target, {"ResetType": _FORCE_OFF})

    def _system(self) -> tuple[str, dict[str, Any]]:
        if self.record.system:
            path = f"{_SYSTEMS}/{quote(self.record.system, safe='')}"
            return path, self._ask("GET", path)
        members = self._ask("GET", _SYSTEMS).get("Members")
        rows = members if isinstance(members, list) else []
        paths = [row["@odata.id"] for row in rows if isinstance(row, dict) and isinstance(row.get("@odata.id"), str)]
        if len(paths) != 1 or not paths[0].startswith("/") or paths[0].startswith("//"):
            names = ", ".join(path.rpartition("/")[2] for path in paths[:8]) or "none"
            message = f"{self.record.url} has {len(paths)} systems ({names}): which one is meant must be said"
            raise FenceError(message, remedy="godwit host fencing HOST --redfish URL --system NAME ...")
        return paths[0].rstrip("/"), self._ask("GET", paths[0])

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        connection = self._connect()
        login = base64.b64encode(f"{self.record.user}:{password_of(self.record)}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Accept": "application/json", "OData-Version": "4.0"}
        payload = None
        if body is not None:
            headers["Content-Type"], payload = "application/json", json.dumps(body)
        try:
            connection.request(method, path, body=payload, headers=headers)
            answer = connection.getresponse()
            text = answer.read(LARGEST + 1)
        except (OSError, http.client.HTTPException) as error:
            message = f"{self.record.url} does not answer as it should: {_words(error)}"
            raise FenceError(message, remedy=_remedy(error)) from error
        finally:
            connection.close()
        return self._understood(method, path, answer.status, text)

    def _connect(self) -> http.client.HTTPSConnection:
        address = urlsplit(self.record.url)
        if address.scheme != "https" or not address.hostname:
            message = f"{self.record.url} is no https:// address: a password would be read by others on the way"
            raise FenceError(
                message, remedy="write --redfish https://ADDRESS; --insecure if it has no good certificate"
            )
        try:
            context = ssl.create_default_context(cafile=self.record.ca_file)
        except (OSError, ssl.SSLError) as error:
            message = f"the authorities in {self.record.ca_file} cannot be read: {error}"
            raise FenceError(message) from error
        if self.record.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(address.hostname, address.port, timeout=TIMEOUT, context=context)

    def _understood(self, method: str, path: str, status: int, text: bytes) -> dict[str, Any]:
        where = f"{self.record.url}{path}"
        if status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            message = f"{where} refuses {self.record.user} (HTTP status {status})"
            raise FenceError(message, remedy="see user and password; the user needs the right to control power")
        if not http.HTTPStatus.OK <= status < http.HTTPStatus.MULTIPLE_CHOICES:
            message = f"{where} answers {method} with HTTP status {status}"
            raise FenceError(message)
        if len(text) > LARGEST:
            message = f"{where} answers with more than {LARGEST} bytes"
            raise FenceError(message)
        if method != "GET":
            return {}
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"{where} answers with what is no JSON"
            raise FenceError(message) from error
        if not isinstance(found, dict):
            message = f"{where} answers with JSON that describes nothing"
            raise FenceError(message)
        return found


def _power(system: dict[str, Any], url: str) -> str:
    state = system.get("PowerState")
    if not isinstance(state, str) or not state.isalnum():
        message = f"{url} does not say whether the machine has power"
        raise FenceError(message)
    return state[:32]


def is_off(state: str) -> bool:
    """Say whether that power state proves that the machine is off."""
    return state == _OFF


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _remedy(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name its authority with --ca FILE; --insecure trusts whoever answers at this address"
    return "see whether the management controller is reached from here"
