"""From a registered host to one that can be used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.hosts.hostfacts import Identity
from godwit.hosts.local import LocalTransport
from godwit.hosts.plain import PlainHost
from godwit.hosts.ssh import SshTransport
from godwit.hosts.sshlogin import DEFAULT_PORT, Login

if TYPE_CHECKING:
    from godwit.model import HostRecord

_SSH: Final = re.compile(
    r"ssh://(?:(?P<user>[^@/:\s]+)@)?(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*)))"
    r"(?::(?P<port>\d{1,5}))?/?"
)
_HIGHEST_PORT: Final = 65535
_REMEDY: Final = "write local, or ssh://user@host[:port], an IPv6 address in brackets: ssh://root@[2001:db8::1]:22"


def open_host(record: HostRecord) -> PlainHost:
    """Return the host of a record; nothing is connected yet. Raises InputError for a URL that cannot be meant."""
    if record.url == "local":
        return PlainHost(Identity(record.name, record.migration_address), LocalTransport(record.name))
    return PlainHost(Identity(record.name, record.migration_address), SshTransport(parse_login(record)))


def parse_login(record: HostRecord) -> Login:
    """Read "ssh://user@host[:port]"; the user is root where none is named. Raises InputError."""
    match = _SSH.fullmatch(record.url)
    port = int(match["port"]) if match and match["port"] else DEFAULT_PORT
    if match is None or not 0 < port <= _HIGHEST_PORT:
        message = f"the URL of {record.name} cannot be meant: {record.url!r}"
        raise InputError(message, remedy=_REMEDY)
    return Login(
        name=record.name,
        host=match["six"] or match["host"],
        port=port,
        user=match["user"] or "root",
        identity_file=record.identity_file,
        known_hosts=record.known_hosts,
        use_agent=record.use_agent,
    )
