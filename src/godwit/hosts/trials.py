"""Connections that are tried as a move will make them: to a port of the same range, with the same kind of certificates.

One host waits with qemu-nbd, the other connects with qemu-io, writes 256 KiB and reads them again: enough for full
packets in both directions. A little goes before, by which a link that is slow is told from one that lets nothing large
pass: what arrived of it came in full packets, too. A burst goes the way that memory goes. Whatever is made for it ends
with it, or by itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.errors import BusyError, HostError
from godwit.hosts.credentials import private_of
from godwit.hosts.shell import run_script
from godwit.model import Trial, TrialEnd
from godwit.plaintext import shortened
from godwit.storage import transfer
from godwit.storage.sharedproof import check_token
from godwit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.transport import Transport
    from godwit.model import Pair

PATIENCE: Final = 5
"""Seconds after which a connection that answers nothing has stalled: some retransmissions of TCP."""

_LIFE: Final = 25
"""Seconds that a host waits for a trial at most."""

_SERVE: Final = (
    transfer.FOLDER
    + r"""
owner=$1 address=$2 port=$3 identity=$4 life=$5
command -v qemu-nbd > /dev/null || { echo "failed there is no qemu-nbd"; exit 0; }
files=$(runtime) || { echo "failed no folder of Godwit's own can be made"; exit 0; }
one=$files/trial-$owner
umask 077
truncate -s 8M -- "$one.image" || { echo "failed there is no room in $files"; exit 0; }
shift 5
if [ -n "${key:-}" ]; then
    keys=$(kept server) || { echo "failed no folder for keys can be made"; exit 0; }
    set -- "$@" --object "tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir=$keys" \
        --object "authz-simple,id=let-in,identity=$identity" --tls-creds tls --tls-authz let-in
fi
(
    timeout -k 2 "$life" qemu-nbd -f raw -e 8 -x "$owner" -b "$address" -p "$port" "$@" \
        --pid-file="$one.pid" -- "$one.image"
    rm -f -- "$one.image" "$one.pid"
) > "$one.log" 2>&1 < /dev/null &
started=$!
tries=250
until [ -s "$one.pid" ]; do
    kill -0 "$started" 2>/dev/null && [ "$tries" -gt 0 ] || break
    tries=$((tries - 1))
    sleep 0.02
done
discard "$owner"  # it has read them
if [ -s "$one.pid" ]; then echo waits; else echo "failed $(tr '\n' ' ' < "$one.log")"; fi
rm -f -- "$one.log"
"""
)
"""$1 names the trial, $2 and $3 are where it is waited for, $4 is who is let in, $5 the seconds that it may last;
the rest is qemu-nbd's."""

_TRY: Final = (
    transfer.FOLDER
    + r"""
owner=$1 url=$2 patience=$3
shift 3
command -v qemu-io > /dev/null || { echo "untried there is no qemu-io"; exit 0; }
if [ -n "${key:-}" ]; then
    trap 'discard "$owner"' EXIT
    keys=$(kept client) || { echo "untried no folder for keys can be made"; exit 0; }
    set -- --object "tls-creds-x509,id=tls,endpoint=client,verify-peer=on,dir=$keys" "$@"
fi
# Line by line, where coreutils can see to that: one that is ended has said then how far it came.
lines=
! command -v stdbuf > /dev/null || lines="stdbuf -oL"
said=$(timeout -k 1 "$patience" $lines qemu-io -f raw "$@" "$url" 2>&1 < /dev/null)
status=$?
case $status in
    0) echo "works" ;;
    124 | 137) echo "stalled" ;;
    *) echo "refused" ;;
esac
printf '%s\n' "$said"
"""
)
"""$1 names the trial, $2 is where it is waited for, $3 the seconds for all of it; the rest is qemu-io's."""

_END: Final = (
    transfer.FOLDER
    + r"""
owner=$1
files=$(runtime) || exit 0
pid=$(cat -- "$files/trial-$owner.pid" 2>/dev/null) || pid=
# The number may be another's by now: only a process that carries the trial's name is ended.
if [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null < "/proc/$pid/cmdline" | grep -qF -- "$owner"; then
    kill "$pid" 2>/dev/null
fi
discard "$owner"
rm -f -- "$files/trial-$owner.image" "$files/trial-$owner.pid" "$files/trial-$owner.log"
"""
)
"""$1 names the trial."""

_LITTLE: Final = 16 * KIB
"""More than the largest packet of an Ethernet with jumbo frames."""

_SMALL: Final = 256 * KIB
_LARGE: Final = 4 * MIB
_BURST: Final = 0.8
"""Seconds that a burst is to take."""

_MOST: Final = 1024
_UNITS: Final = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": 1024 * MIB}
_RATE: Final = re.compile(r"\bsec \(([0-9.]{1,12}) (bytes|KiB|MiB|GiB)/sec\b")
_WROTE: Final = re.compile(r"^wrote ([0-9]{1,12})/\1 bytes", re.MULTILINE)
_SHOWN: Final = 300

_BEFORE: Final = re.compile(r"can't open device (json:\{.*\}|\S+): ")
_UNCONNECTED: Final = re.compile(r"Failed to connect|refused|No route|unreachable")
_REFUSED: Final = re.compile(
    r"certificate|TLS (handshake|x509|channel|session|connection|negotiation)|STARTTLS|(needs|requires|support) TLS"
    r"|magic|reset by peer|Broken pipe|end-of-file",
    re.IGNORECASE,
)
"""What QEMU's programs say of a connection that the other end, or something on the way, does not take part in."""


def parse_writes(said: str) -> tuple[int, float]:
    """Return the bytes that qemu-io has written, and the seconds that it took; 0 seconds where it does not say."""
    sent, seconds = 0, 0.0
    for part in re.split(r"^(?=wrote )", said, flags=re.MULTILINE):
        wrote, rate = _WROTE.search(part), _RATE.search(part)
        if wrote is not None and rate is not None and (speed := float(rate[1]) * _UNITS[rate[2]]) > 0:
            sent += int(wrote[1])
            seconds += int(wrote[1]) / speed
    return sent, seconds


def parse_trial(said: str, port: int) -> Trial:
    """Read what came of a trial, in the words of whoever refused it.

    Whatever else keeps qemu-io from its work (no room, an error of the image, an option that it does not know) says
    nothing of the link.
    """
    word, _, rest = said.strip().partition("\n")
    end, _, words = word.partition(" ")
    if end == "works" and f"read {_SMALL}/{_SMALL}" in rest:
        return Trial(TrialEnd.WORKS, port=port)
    if end == TrialEnd.STALLED and f"read {_LITTLE}/{_LITTLE}" in rest:
        return Trial(TrialEnd.WORKS, f"slow: {(_LITTLE + _SMALL) // KIB} KiB and back take over {PATIENCE} s", port)
    if end in {TrialEnd.STALLED, TrialEnd.UNTRIED}:
        return Trial(TrialEnd(end), words, port)
    said = " ".join(rest.split())
    why, end = _BEFORE.sub("", said), TrialEnd.UNTRIED
    if _UNCONNECTED.search(why):
        end = TrialEnd.UNCONNECTED
    elif _REFUSED.search(why):
        end = TrialEnd.REFUSED
    return Trial(end, shortened(said or words or "the shell said nothing", _SHOWN), port)


class TriesLinks:
    """The part of a plain host that tries connections to others; `_transport` is the way to this host."""

    _transport: Transport

    async def serve_trial(self, owner: str, address: str, port: int, *, pair: Pair | None, measure: bool) -> None:
        """Wait for `owner`'s trial; see the port."""
        arguments = (check_token(owner), address, str(port), pair.identity if pair else "", str(_LIFE))
        more = ("-t",) if measure else ()
        private = private_of(pair.server) if pair else None
        completed = await run_script(self._transport, _SERVE, *arguments, *more, private=private)
        word, _, words = completed.stdout.decode(errors="replace").strip().partition(" ")
        if word != "waits":
            message = f"no trial can be waited for on {self._transport.where}: {words or 'the shell said nothing'}"
            if "in use" in words:
                raise BusyError(message, remedy="try again: something else has taken that port just now")
            raise HostError(message, remedy="install qemu-utils there, or what has qemu-nbd")

    async def try_link(self, owner: str, address: str, port: int, *, pair: Pair | None, measure: bool) -> Trial:
        """Connect, send and fetch, and send a burst where that is asked for; see the port."""
        plain = transfer.place_of(address, port, check_token(owner))
        url = transfer.encrypted(plain) if pair else plain
        small = tuple(f"{word} 0 {size}" for size in (_LITTLE, _SMALL) for word in ("write -P 165", "read"))
        trial = parse_trial(said := await self._qemu_io(owner, url, pair, small), port)
        if (
            trial.end is TrialEnd.STALLED
            and not parse_writes(said)[0]
            and await self._transport.reaches(address, port) != "accepted"
        ):
            return Trial(TrialEnd.UNCONNECTED, f"no answer within {PATIENCE} s", port)
        sent, seconds = parse_writes(said)
        if trial.end is not TrialEnd.WORKS or not measure or not seconds:
            return trial
        burst = sent / seconds * _BURST
        piece = _LARGE if burst > _LARGE else _SMALL  # a slow link is to get one through before patience ends
        count = min(max(int(burst / piece), 1), _MOST)
        sent, seconds = parse_writes(await self._qemu_io(owner, url, pair, [f"write -P 165 0 {piece}"] * count))
        return Trial(TrialEnd.WORKS, port=port, sent=sent, seconds=seconds)

    async def _qemu_io(self, owner: str, url: str, pair: Pair | None, commands: Sequence[str]) -> str:
        arguments = (owner, url, str(PATIENCE), *(word for command in commands for word in ("-c", command)))
        private = private_of(pair.client) if pair else None
        completed = await run_script(self._transport, _TRY, *arguments, private=private, deadline=PATIENCE + 10.0)
        return completed.stdout.decode(errors="replace")

    async def end_trial(self, owner: str) -> None:
        """End what waits for a trial; see the port."""
        await run_script(self._transport, _END, check_token(owner))
