"""Whole files from host to host, without a login between them: `qemu-nbd` gives one away, `qemu-img` takes it.

Snapshots inside an image, and whatever else a file holds, travel as they are; holes stay holes. Who gives a file away
does so for one client, under a name that nobody can guess, and for as long as somebody asks for it to go on: where a
lease is not renewed, it ends by itself.
"""

from __future__ import annotations

from typing import Final

from godwit.errors import BusyError, GodwitError, HostError
from godwit.ports import ServedFile
from godwit.storage.images import CLAIM

LEASE: Final = 30
"""Seconds after which an exporter ends that nobody asks for any more."""

SERVE: Final = r"""
path=$1 lease=$2 address=$3 port=$4 last=$5
command -v qemu-nbd > /dev/null || { echo "missing"; exit 0; }
size=$(stat -L -c %s -- "$path" 2>&1) || { echo "absent $size"; exit 0; }
place=$(runtime) && mkdir -p -m 700 -- "$place/files" || { echo "failed no folder for a process number"; exit 0; }
pidfile=$place/files/$lease.pid
touch -- "$pidfile.lease" || exit 1
while :; do
    if said=$(qemu-nbd --fork "--pid-file=$pidfile" --read-only --format=raw --shared=1 \
        --bind="$address" --port="$port" --export-name="$lease" -- "$path" 2>&1); then
        break
    fi
    case $said in
    *"in use"*) [ "$port" -lt "$last" ] && port=$((port + 1)) && continue ;;
    esac
    rm -f -- "$pidfile" "$pidfile.lease"
    echo "failed $said"
    exit 0
done
pid=$(cat -- "$pidfile")
watch='
pid=$1 pidfile=$2 lease=$3
while kill -0 "$pid" 2>/dev/null; do
    now=$(date +%s)
    if [ $((now - $(stat -c %Y -- "$pidfile.lease" 2>/dev/null || echo 0))) -gt "$lease" ]; then kill "$pid"; fi
    sleep 1
done
rm -f -- "$pidfile" "$pidfile.lease"
'
setsid sh -c "$watch" watch "$pid" "$pidfile" "$6" < /dev/null > /dev/null 2>&1 &
echo "serving $port $size"
"""
"""$1 the file, $2 the lease, $3 the address, $4 and $5 the first and last port to try, $6 seconds a lease lasts."""

RENEW: Final = r"""
pidfile=$(runtime)/files/$1.pid
if [ -e "$pidfile.lease" ]; then touch -- "$pidfile.lease"; fi
"""
"""$1 is the lease."""

STOP_SERVING: Final = r"""
pidfile=$(runtime)/files/$1.pid
pid=$(cat -- "$pidfile" 2>/dev/null) || exit 0
# Only an exporter of this lease: a process number may have become another's.
if tr '\0' '\n' < "/proc/$pid/cmdline" 2>/dev/null | grep -q -x -F -e "--export-name=$1"; then
    kill "$pid" 2>/dev/null
    tries=0
    # No event tells a shell that a process ended which is not its child: look every 10 ms.
    while kill -0 "$pid" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || kill -KILL "$pid" 2>/dev/null
        [ "$tries" -lt 500 ] || exit 1
        sleep 0.01
    done
fi
rm -f -- "$pidfile" "$pidfile.lease"
"""
"""$1 is the lease."""

FETCH: Final = (
    CLAIM
    + r"""
size=$1 uri=$2
command -v qemu-img > /dev/null || { rm -f -- "$path" "$marker"; echo "missing"; exit 0; }
if said=$({ truncate -s "$size" -- "$path" &&
    qemu-img convert -n --target-is-zero -f raw -O raw -- "$uri" "$path" &&
    truncate -s "$size" -- "$path" && sync -- "$path"; } 2>&1); then
    echo "fetched"
else
    echo "failed $said"
fi
"""
)
"""$1 is the new file, $2 whose it is, $3 its size in bytes, $4 where it is served.

A raw image is as long as whole sectors; the file gets the length that it had. What failed keeps its mark: who asked for
it removes it."""

USED: Final = r"""
blocks=$(stat -L -c '%b %B' -- "$1" 2>/dev/null) || blocks="0 0"
echo "$((${blocks% *} * ${blocks#* }))"
"""
"""$1 is a file; prints how many bytes it takes on its file system, 0 where there is none."""

RESIDENT: Final = r"""
while read -r name value _; do
    if [ "$name" = VmRSS: ]; then echo "$((value * 1024))"; exit 0; fi
done < "/proc/$1/status"
"""
"""$1 is a process; prints how many bytes of memory it has resident."""


def parse_serving(said: str, where: str, path: str, address: str, lease: str) -> ServedFile:
    """Read SERVE's output. Raises HostError with the mend."""
    word, _, rest = said.strip().partition(" ")
    if word == "serving":
        port, _, size = rest.partition(" ")
        host = f"[{address}]" if ":" in address else address
        return ServedFile(path, int(size), f"nbd://{host}:{port}/{lease}", lease)
    if word == "missing":
        message = f"{where} has no qemu-nbd, which gives files to other hosts"
        raise HostError(message, remedy="install it there: the package qemu-utils, or the like")
    if word == "absent":
        message = f"{where} has no {path} that can be read: {rest}"
        raise HostError(message, remedy="see whether the storage is mounted at this place")
    message = f"{where} cannot give {path} away: {rest or said.strip() or 'the shell said nothing'}"
    raise HostError(message, remedy="see who has it open, and the host's migration address")


def fetching_error(where: str, path: str, said: str) -> GodwitError | None:
    """Return what FETCH's output means: None where the file is there."""
    word, _, words = said.strip().partition(" ")
    if word == "fetched":
        return None
    if word == "exists":
        message = f"{where} has a file {path} already, and it is not overwritten"
        return HostError(message, remedy="move it away, if nobody needs it there")
    if word == "taken":
        return BusyError(f"another copy to {path} on {where} is under way", remedy=f"wait for it, or remove {words}")
    if word == "missing":
        message = f"{where} has no qemu-img, which copying a file needs"
        return HostError(message, remedy="install it there: the package qemu-utils, or the like")
    message = f"{where} could not copy {path}: {words or said.strip() or 'the shell said nothing'}"
    full = "No space left" in words
    return HostError(message, remedy="make room there" if full else "see the folder's rights and the way between hosts")
