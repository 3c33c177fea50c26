"""Disks that lie behind an address of the network: what the address says, and whether another host could mean it. Pure.

QEMU's own ways to write them: docs/system/qemu-block-drivers.rst.inc, `nbd://HOST:PORT/EXPORT`, `nbd:HOST:PORT`,
`nbd:unix:PATH`, `nfs://SERVER/EXPORT/FILE`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

SCHEMES: Final = frozenset({"nbd", "nbd+tcp", "nbd+unix", "nfs"})

_OLD: Final = re.compile(r"nbd:(?P<host>\[[^]]*\]|[^:/]+):(?P<port>\d+)(:exportname=.*)?")


def is_network_address(path: str) -> bool:
    """Say whether what QEMU calls a disk's file is an address that Godwit knows how to prove."""
    return path.partition(":")[0] in SCHEMES and ":" in path


def unreachable(path: str) -> str:
    """Return why another host cannot mean the same by an address, empty where it can."""
    if path.startswith(("nbd+unix:", "nbd:unix:")):
        return "it is a UNIX socket, which only its own host sees"
    old = _OLD.fullmatch(path)
    try:
        host = old["host"].strip("[]") if old else urlsplit(path).hostname
    except ValueError:
        host = None
    if not host:
        return "it names no server"
    if host == "localhost" or host.endswith(".localhost"):
        return "it leads to this very host, whatever host reads it"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return "it leads to this very host, whatever host reads it" if address.is_loopback or address.is_unspecified else ""
