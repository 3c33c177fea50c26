"""Checks of disks that both hosts cache: what the target's cache holds may be older than what the guest has written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.core.preflight.rows import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import Finding

_NETWORK: Final = re.compile(r"nfs4?|cifs|smb[23]?|9p|virtiofs|afs|davfs|fuse\..+")
_COHERENT: Final = re.compile(r"ceph|gfs2|ocfs2|gpfs|lustre|beegfs|fuse\.(glusterfs|ceph.*|beegfs.*)")
"""Cluster file systems: what one host has written, the others see at once."""

_DROPS_CACHE: Final = (3, 0, 0)
"""From here on QEMU drops what Linux' page cache has of a disk when its guest comes (raw_co_invalidate_cache)."""


def cache_findings(e: Evidence) -> Iterator[Finding]:
    """Yield the shared disks that go through the page cache of hosts that do not hear of each other's writes."""
    cached = {disk.name for disk in e.guest.disks if not disk.direct and not disk.read_only}
    for disk in e.disks:
        kind = _file_system(e, disk.path)
        if disk.name not in cached or disk.backs or not disk.token_seen:
            continue
        if not _NETWORK.fullmatch(kind) or _COHERENT.fullmatch(kind):
            continue
        drops = e.target.qemu is not None and e.target.qemu.version >= _DROPS_CACHE and not e.guest.needs.keeps_cache
        yield found(
            "disk-cached" if drops else "disk-cache",
            disk.path,
            f"disk {disk.name} goes through the page cache (cache.direct is off), and lies on {kind} on "
            f"{e.target.name}",
            "start the guest with cache=none, or cache.direct=on, for this disk",
        )


def _file_system(e: Evidence, path: str) -> str:
    over = [one for one in e.target.storage if path.startswith(f"{one.path.rstrip('/')}/")]
    return max(over, key=lambda one: len(one.path)).kind if over else ""
