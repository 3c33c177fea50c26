"""The seam for `migrate -b` and `migrate -i` on a QEMU that has dropped them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from godwit.errors import RefusedError

if TYPE_CHECKING:
    from godwit.ports import Guest


@dataclass(frozen=True, slots=True)
class DiskMigration:
    """What was asked for: `kind` is the flag, `b` for whole disks, `i` for what lies above a shared backing file."""

    uri: str
    kind: Literal["b", "i"]
    detach: bool


async def migrate_with_disks(guest: Guest, asked: DiskMigration) -> str:  # noqa: ARG001 - the seam's shape
    """Copy the guest's disks and then its memory to `asked.uri`, and return what the monitor prints.

    Here the mirror over NBD is to be plugged in; until then it always raises RefusedError and touches nothing.
    """
    message = (
        f"migrate: unsupported option -{asked.kind}: this QEMU does not copy disks with a migration any more; today a "
        "mirror over NBD does, which this console does not drive yet"
    )
    mode = {"b": "full", "i": "incremental"}[asked.kind]
    remedy = (
        f"godwit migrate VM HOST --disks {mode} does this on a QEMU like this; over storage that both hosts share, "
        "migrate works without -b and -i"
    )
    raise RefusedError(message, remedy=remedy)
