"""How large packets pass between hosts: asked with pings that may not be cut up, in one round trip.

A way on which large packets vanish without a word lets connections begin and then hang: whoever connects sends small
packets, and what they are for is large. Pings show it in milliseconds where all is well, and within some seconds where
it is not. Of a host whose ping knows no such thing, or that may not send them, nothing is known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.hosts.shell import run_script
from godwit.model import Packets

if TYPE_CHECKING:
    from godwit.hosts.transport import Transport

_PACKETS: Final = r"""
LC_ALL=C
export LC_ALL
address=$1
case $address in *:*) header=48 ;; *) header=28 ;; esac
route=$(ip -o route get "$address" 2>/dev/null | head -n 1)
device=$(printf '%s\n' "$route" | sed -n 's/.* dev \([^ ]*\).*/\1/p')
mtu=$(ip -o link show dev "$device" 2>/dev/null | sed -n 's/.* mtu \([0-9]*\).*/\1/p')
known=$(printf '%s\n' "$route" | sed -n 's/.* mtu \(lock \)\{0,1\}\([0-9]*\).*/\2/p')
[ -z "$known" ] || [ "$known" -ge "${mtu:-0}" ] || mtu=$known
[ "${mtu:-0}" -le 65535 ] || mtu=65535  # the loopback's is larger than a packet can be
echo "mtu ${mtu:-0}"
[ -n "$mtu" ] && [ "$mtu" -gt 200 ] || exit 0
try() {
    said=$(ping -n -c 1 -W 1 -M "do" -s "$(($1 - header))" "$address" 2>&1) && echo "came $1"
    case $said in *"too long"* | *"rag needed"* | *"too big"*) echo told ;; esac
}
first=$(try 200 & try "$mtu" & wait)
printf '%s\n' "$first"
case $first in *"came $mtu"* | *told*) exit 0 ;; *"came 200"*) ;; *) exit 0 ;; esac
# Once more, so that nothing is said for one that was lost by chance; and where is the limit?
for size in 1280 1360 1380 1400 1420 1440 1450 1460 1476 1480 1492 1500 4000 8000 8900 9000; do
    [ "$size" -ge "$mtu" ] || try "$size" &
done
try "$mtu" &
wait
"""
"""$1 is an address. Prints the MTU of the way there as this host knows it, sizes that came, and whether it was told of
larger ones that do not pass."""

_CAME: Final = re.compile(r"^came ([0-9]{1,6})$", re.MULTILINE)
_MTU: Final = re.compile(r"^mtu ([0-9]{1,6})$", re.MULTILINE)


def parse_packets(text: str) -> Packets:
    """Read what the script says; what it does not say is not known."""
    mtu = _MTU.search(text)
    return Packets(
        mtu=int(mtu[1]) if mtu else 0,
        largest=max(map(int, _CAME.findall(text)), default=0),
        told="told" in text.splitlines(),
    )


class LooksAtLinks:
    """The part of a plain host that looks at the way to others; `_transport` is the way to this host."""

    _transport: Transport

    async def packets(self, address: str) -> Packets:
        """Say how large packets may be on the way to `address`; see the port."""
        completed = await run_script(self._transport, _PACKETS, address)
        return parse_packets(completed.stdout.decode(errors="replace"))
