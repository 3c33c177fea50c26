"""Which threads of a QEMU play its guest's CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.qemu.reply import as_objects, whole

if TYPE_CHECKING:
    from godwit.qemu.qom import Asks


async def vcpu_threads(monitor: Asks) -> tuple[int, ...]:
    """Return the thread of each of the guest's CPUs, in order; under plain emulation one may play several."""
    rows = as_objects(await monitor.execute("query-cpus-fast"), "query-cpus-fast")
    return tuple(whole(row, "thread-id") for row in rows)
