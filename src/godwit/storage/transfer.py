"""Whole files from one host to another over the migration network, without SSH between them.

The target serves the file that it made for it over NBD, once, and the source sends into it: the same way that disks and
memory take, so nothing more must be let through. Both ends are limited in time, and both have the transfer's name on
their command lines, by which alone they are found and ended.
"""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import urlsplit

from godwit.core.trust import DH_PARAMETERS, verified_name
from godwit.errors import GodwitError, HostError

SLOWEST: Final = 1 << 20
"""Bytes a second below which a transfer has no patience with a link."""

TLS: Final = "tls"
"""What the scripts call the credentials of QEMU's programs."""

_LEAST: Final = 600
"""Seconds that any transfer may take."""

FOLDER: Final = (
    f"dh_parameters='{DH_PARAMETERS.strip()}'\n"
    r"""
is_own() { [ -d "$1" ] && [ ! -L "$1" ] && [ "$(stat -c %u -- "$1")" = "$(id -u)" ]; }
# Root may keep them for a QEMU that runs as another user, who must get as far as there.
credentials() {
    top=/run/godwit-tls
    if [ "$(id -u)" = 0 ] && mkdir -p -m 711 "$top" 2>/dev/null && is_own "$top" && [ -w "$top" ]; then
        echo "$top/$1"
        return 0
    fi
    place=$(runtime) && mkdir -p -m 700 -- "$place/tls" && echo "$place/tls/$1"
}
# In a folder of our own nobody else can plant a link or swap a file: whatever else lies there is removed.
own() { mkdir -m 700 -- "$1" 2>/dev/null || is_own "$1" || { rm -rf -- "$1" && mkdir -m 700 -- "$1"; }; }
keep() { new=$(mktemp -- "$1/.new.XXXXXX") && printf '%s\n' "$3" > "$new" && mv -fT -- "$new" "$1/$2"; }
kept() {
    (umask 077 && keys=$(credentials "$owner") && own "$keys" &&
        keep "$keys" ca-cert.pem "$authorities" && keep "$keys" "$1-cert.pem" "$certificate" &&
        keep "$keys" "$1-key.pem" "$key" && { [ "$1" = client ] || keep "$keys" dh-params.pem "$dh_parameters"; } &&
        echo "$keys")
}
# Wherever they may have been put; what cannot be removed is said, and a failure.
discard() {
    discarded=0
    for top in /run/godwit-tls /run/godwit/tls "${XDG_RUNTIME_DIR:-/nonexistent}/godwit/tls" \
        "${HOME:-/nonexistent}/.cache/godwit/tls"; do
        [ ! -x "$top" ] || rm -rf -- "$top/$1" "$top/$1".* || discarded=1
    done
    return "$discarded"
}
"""
)
"""Where keys lie on a host: `kept ROLE` puts what came as variables there for `owner`, and prints the folder. It and
the files are the login's own; `discard OWNER` removes them, and those of all that is called after it (`OWNER.more`)."""

_FILES: Final = (
    FOLDER
    + r"""
owner=$1
files=$(runtime) || { echo "failed no folder of Godwit's own can be made"; exit 0; }
ended() {
    said=
    for one in "$files/take-$owner" "$files/send-$owner"; do
        pid=$(cat -- "$one.pid" 2>/dev/null) || pid=
        tries=0
        # The number may be another's by now: only a process that carries the transfer's name is ended.
        while [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null < "/proc/$pid/cmdline" | grep -qF -- "$owner"; do
            [ "$tries" -lt 60 ] || kill -9 "$pid" 2>/dev/null
            [ "$tries" -gt 0 ] || kill "$pid" 2>/dev/null
            [ "$tries" -lt 80 ] || { said="process $pid does not end; "; break 2; }
            tries=$((tries + 1))
            sleep 0.05
        done
        rm -f -- "$one.pid" "$one.log"
    done
    left=$(discard "$owner" 2>&1) || said="${said}its keys are left: $left"
    [ -z "$said" ] || { echo "failed $said"; return 1; }
}
"""
)

TAKE: Final = (
    _FILES
    + r"""
path=$2 address=$3 port=$4 life=$5 identity=$6
command -v qemu-nbd > /dev/null || { echo "failed there is no qemu-nbd"; exit 0; }
ended || exit 0
one=$files/take-$owner
set --
if [ -n "${key:-}" ]; then
    keys=$(kept server) || { echo "failed no folder for keys can be made"; exit 0; }
    # Whoever is not let in must not be in the way of who is.
    set -- --object "tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir=$keys" \
        --object "authz-simple,id=let-in,identity=$identity" --tls-creds tls --tls-authz let-in -e 64
fi
setsid timeout -k 5 "$life" qemu-nbd -f raw -x "$owner" -b "$address" -p "$port" --discard=unmap --detect-zeroes=unmap \
    "$@" --pid-file="$one.pid" -- "$path" > "$one.log" 2>&1 < /dev/null &
started=$!
tries=100
while [ "$tries" -gt 0 ]; do
    if [ -s "$one.pid" ]; then
        discard "$owner"  # it has read them; that it failed is said by the end of the transfer
        echo "takes"
        exit 0
    fi
    kill -0 "$started" 2>/dev/null || break
    tries=$((tries - 1))
    sleep 0.05
done
kill "$started" 2>/dev/null
discard "$owner"
echo "failed $(tr '\n' ' ' < "$one.log")"
rm -f -- "$one.pid" "$one.log"
"""
)
"""$1 names the transfer, $2 is the file, $3 and $4 where it is taken, $5 the seconds that this may last, $6 is
who is let in, where keys are given."""

SEND: Final = (
    _FILES
    + r"""
path=$2 url=$3 life=$4
shift 4
command -v qemu-img > /dev/null || { echo "failed there is no qemu-img"; exit 0; }
one=$files/send-$owner
if [ -n "${key:-}" ]; then
    keys=$(kept client) || { echo "failed no folder for keys can be made"; exit 0; }
    set -- "$@" --object "tls-creds-x509,id=tls,endpoint=client,verify-peer=on,dir=$keys"
fi
timeout -k 5 "$life" qemu-img convert -U -n --target-is-zero -f raw -O raw "$@" -- "$path" "$url" > "$one.log" 2>&1 &
echo $! > "$one.pid"
wait $!
status=$?
discard "$owner"
if [ "$status" = 0 ]; then echo "sent"; else echo "failed status $status: $(tr '\n' ' ' < "$one.log")"; fi
rm -f -- "$one.pid" "$one.log"
"""
)
"""$1 names the transfer, $2 is the file, $3 where it goes, $4 the seconds for it; the rest is qemu-img's."""

END: Final = _FILES + "ended || exit 0\n"
"""$1 names the transfer: what works for it on this host is ended."""

FIT: Final = r"""
truncate -s "$2" -- "$1" && sync -- "$1"
"""
"""$1 is the file, $2 its size: NBD and QEMU's block layer know multiples of 512 bytes only."""

COMPARE: Final = (
    FOLDER
    + r"""
owner=$1 path=$2 format=$3 url=$4 life=$5 whose=$6
command -v qemu-img > /dev/null || { echo "failed there is no qemu-img"; exit 0; }
set --
if [ -n "$whose" ]; then
    keys=$(credentials "$whose") && set -- --object "tls-creds-x509,id=tls,endpoint=client,verify-peer=on,dir=$keys"
fi
said=$(timeout -k 5 "$life" qemu-img compare -U "$@" -f "$format" -F raw -- "$path" "$url" 2>&1)
status=$?
case $status in
    0) echo "equal" ;;
    1) echo "differ $said" ;;
    124 | 137) echo "failed not within $life s" ;;
    *) echo "failed $said" ;;
esac
"""
)
"""$1 names the comparison, $2 is an image here, $3 its format, $4 where the other is, $5 the seconds for it, $6 whose
keys are taken, empty where none are."""


HEAD: Final = r"""
url=$1
for program in qemu-img qemu-io; do
    command -v "$program" > /dev/null || { echo "failed there is no $program"; exit 0; }
done
said=$(timeout -k 2 8 qemu-img info --output=json -U -f raw -- "$url" 2>&1)
status=$?
if [ "$status" = 124 ]; then echo "failed no answer within 8 s: its server may take no further client"; exit 0; fi
if [ "$status" != 0 ]; then echo "failed $said"; exit 0; fi
size=$(printf '%s' "$said" | tr -d ' \n' | sed 's/.*"virtual-size":\([0-9]*\).*/\1/')
length=65536
[ "$size" -ge "$length" ] || length=$size
seen=$(timeout -k 2 8 qemu-io -r -U -f raw -c "read -v 0 $length" "$url" 2>&1) || { echo "failed $seen"; exit 0; }
echo "head $size $(printf '%s\n' "$seen" | grep '^[0-9a-f]*:' | sha256sum | cut -c 1-64)"
"""
"""$1 is an address; prints the size of what is served there and a digest of its first bytes."""


def life_of(size: int, speed: int) -> int:
    """Return the seconds that moving `size` bytes may take, where `speed` bytes a second (0: any) are allowed."""
    slowest = min(SLOWEST, speed) if speed else SLOWEST
    return _LEAST + 2 * size // slowest


def place_of(address: str, port: int, owner: str) -> str:
    """Return the NBD URI of a transfer."""
    host = f"[{address}]" if ":" in address else address
    return f"nbd://{host}:{port}/{owner}"


def encrypted(url: str) -> str:
    """Return how QEMU's programs are told to reach an NBD URI of ours by their object `tls`: as raw, so `-f raw`."""
    parts = urlsplit(url)
    host = verified_name(parts.hostname or "")
    server = {"type": "inet", "host": (parts.hostname or "").strip("[]"), "port": str(parts.port)}
    far: dict[str, object] = {"driver": "nbd", "server": server, "export": parts.path.lstrip("/"), "tls-creds": TLS}
    if host != server["host"]:
        far["tls-hostname"] = host
    return "json:" + json.dumps({"driver": "raw", "file": far}, separators=(",", ":"))


def trouble(said: str, doing: str) -> GodwitError | None:
    """Return what a script's output means: None where it did what it was asked for."""
    word, _, words = said.strip().partition(" ")
    if word != "failed" and word:
        return None
    remedy = "see the room and the rights there, whether qemu-utils is installed, and the migration link"
    return HostError(f"{doing}: {words.strip() or 'the shell said nothing'}", remedy=remedy)
