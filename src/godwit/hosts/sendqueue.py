"""Keeps the unsent queue of a host's TCP sockets short while migrations leave it.

QEMU believes that it has sent what still waits in the kernel, and stops the guest with that much more to go. The knob,
net.ipv4.tcp_notsent_lowat (tcp(7)), is one for the whole host (its network namespace), so it is leased: each migration
has a file of its own, the host's own value is kept beside them, and the last lease puts it back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.hosts.shell import run_script

if TYPE_CHECKING:
    from godwit.hosts.transport import Transport

_LEASE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

_SCRIPT: Final = r"""
action=$1 lease=$2 size=$3 oldest=$4
knob=/proc/sys/net/ipv4/tcp_notsent_lowat
[ -w "$knob" ] && command -v flock >/dev/null && place=$(runtime) || { echo refused; exit 0; }
place=$place/send-queue
mkdir -p -m 700 -- "$place/leases" || { echo refused; exit 0; }
exec 9> "$place/lock"
flock -w 5 9 || { echo "another holds $place/lock" >&2; exit 1; }
boot=$(cat /proc/sys/kernel/random/boot_id)
now=$(date +%s)
if [ "$(cat "$place/boot" 2>/dev/null)" != "$boot" ]; then
    rm -f -- "$place/original" "$place/leases"/* && echo "$boot" > "$place/boot" || exit 1
fi
put() { printf '%s\n' "$2" > "$place/.new" && mv -- "$place/.new" "$1"; }
if [ "$action" = shorten ]; then
    # The host's own value first: whoever finds it knows that the present one may be ours.
    if [ ! -e "$place/original" ]; then put "$place/original" "$(cat "$knob")" || exit 1; fi
    put "$place/leases/$lease" "$now $size" || exit 1
else
    rm -f -- "$place/leases/$lease"
fi
{ read -r original < "$place/original"; } 2>/dev/null || { echo done; exit 0; }
smallest=$original
leases=0
for file in "$place/leases"/*; do
    { read -r at wants < "$file"; } 2>/dev/null || continue
    # A lease that is a day old has lost its migration; those of an earlier boot are gone already.
    if [ $((now - at)) -gt "$oldest" ]; then
        rm -f -- "$file"
        continue
    fi
    leases=$((leases + 1))
    if [ "$wants" -lt "$smallest" ]; then smallest=$wants; fi
done
echo "$smallest" > "$knob" || { echo refused; exit 0; }
if [ "$leases" -eq 0 ]; then rm -f -- "$place/original"; fi
echo done
"""

_OLDEST: Final = 24 * 3600
"""Seconds after which a lease without its migration no longer holds."""


async def shorten(transport: Transport, lease: str, size: int) -> bool:
    """Take a lease on a queue of `size` bytes at most; renew it if it is taken. False where it is not permitted."""
    return await _change(transport, "shorten", lease, size)


async def restore(transport: Transport, lease: str) -> None:
    """Give a lease back. Idempotent."""
    await _change(transport, "restore", lease, 0)


async def _change(transport: Transport, action: str, lease: str, size: int) -> bool:
    if _LEASE.fullmatch(lease) is None:
        message = f"{lease!r} cannot name a lease: letters, digits, '.', '_' and '-'"
        raise InputError(message)
    completed = await run_script(transport, _SCRIPT, action, lease, str(size), str(_OLDEST))
    return completed.stdout.strip() == b"done"
