"""A guest's disk that lies on its host alone: filled, moved, looked at anew, and what must be left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from labwaits import LONG

from godwit.model import Owner

if TYPE_CHECKING:
    from labmoves import Move
    from labtools import Ground

SLOW: Final = 40_000_000
"""Bits a second at which the disk of these tests takes some seconds."""

FILL: Final = "dd if=/dev/urandom of=/data/filling bs=1M count=12 conv=fsync 2>/dev/null; sync"
SEEN_ANEW: Final = "sync; echo 3 >/proc/sys/vm/drop_caches; md5sum /data/filling; cat /data/token"


def image(ground: Ground) -> str:
    """Return the path of the guest's image on its hosts."""
    return f"/mnt/images/{ground.name}.qcow2"


def made_there(ground: Ground, machine: str) -> list[str]:
    """Return the guest's image and the mark of a copy on a host."""
    folder = ground.lab.images(machine)
    return sorted(path.name for path in folder.iterdir() if path.name == f"{ground.name}.qcow2" or "copy" in path.name)


async def fill(ground: Ground) -> tuple[str, str]:
    """Put some data on the guest's disk, take an old copy out of the way; returns where the guest is and goes."""
    here, there = await ground.whereabouts()
    (ground.lab.images(there) / f"{ground.name}.qcow2").unlink(missing_ok=True)
    ground.ssh(f"{FILL}; echo {here} > /data/token; sync")
    return here, there


async def assert_as_before(ground: Ground, move: Move, here: str, there: str, deadline: float = LONG) -> None:
    """The guest runs where it was, on its own disk, and nothing of the copy is left."""
    outcome = await move.outcome(deadline)
    assert outcome.owner is Owner.SOURCE
    await ground.assert_settled(here)
    assert made_there(ground, there) == []
    assert ground.ssh("echo works > /data/probe && sync && cat /data/probe") == "works"
