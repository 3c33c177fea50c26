"""The files of saved guests on a plain host: the port `SaveFiles` over short shell scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.savefile import DiskState
from godwit.core.saves import CHUNK, SEAL_AT, STREAM_AT, status_of
from godwit.errors import HostError, RemoteCommandError
from godwit.hosts.shell import number_in, run_script, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.transport import Transport

CHUNK_DEADLINE: Final = 900.0
"""Seconds that reading one chunk may take: a disk of 300 KB/s is not waited for."""

COMPLETE_DEADLINE: Final = 900.0
"""Seconds that writing back what the page cache holds of a save may take."""

_BEGIN: Final = r"""
path=$1 part=$2 program=$3 room=$4
fail() { echo "$*"; exit 0; }
folder=${path%/*}
[ -n "$folder" ] || folder=/
[ -z "$program" ] || command -v -- "$program" > /dev/null || fail "program"
[ -d "$folder" ] || fail "folder $folder"
if [ -e "$path" ] || [ -L "$path" ]; then fail "exists"; fi
umask 077
set -C
said=$({ printf '' > "$part"; } 2>&1) || fail "refused $said"
set +C
said=$(truncate -s "$room" -- "$part" 2>&1) || { rm -f -- "$part"; fail "refused $said"; }
echo "begun"
"""
"""$1 the file, $2 where it is written first, $3 a program that is needed, $4 the bytes before the stream."""

_MEASURE: Final = r"""
part=$1
shift
echo "length $(stat -c %s -- "$part")" || exit 1
for path in "$@"; do
    said=
    if [ -f "$path" ]; then said=$(stat -L -c '%s %.Y' -- "$path" 2>/dev/null); fi
    echo "disk $said"
done
"""
"""$1 a file, then disks: prints the length of the first, and size and time of last change of the
others, nothing for one that is no file."""

_COMPLETE: Final = r"""
set -u
path=$1 part=$2
dd of="$part" bs=65536 conv=notrunc,fsync status=none || exit 1
# A link fails where there is a file of that name, in one step; not every file system has links.
if ! ln -- "$part" "$path" 2>/dev/null; then
    if [ -e "$path" ] || [ -L "$path" ]; then echo "exists"; exit 0; fi
    mv -n -- "$part" "$path" || exit 1
    if [ -e "$part" ]; then echo "exists"; exit 0; fi
fi
rm -f -- "$part" "$part.status"
sync -- "${path%/*}/" || exit 1
echo "complete"
"""
"""$1 the file, $2 where it was written; the header is the standard input."""

_DISCARD: Final = 'rm -f -- "$1" "$1.status"\n'

_PROGRAM: Final = r"""
[ -e "$1" ] || exit 0
status=$(cat -- "$1") && [ -n "$status" ] && echo "$status"
exit 0
"""

_HEAD: Final = r"""
set -u
[ -e "$1" ] || { echo "absent"; exit 0; }
[ -f "$1" ] || { echo "no-file"; exit 0; }
echo "length $(stat -L -c %s -- "$1")" && head -c "$2" -- "$1"
"""

_CHUNK: Final = r"""
path=$1 megabytes=$2 skip=$3
sum=$(dd if="$path" bs=1M iflag=fullblock count="$megabytes" skip="$skip" status=none | b2sum -l 256)
echo "${sum%% *}"
"""

_SEAL: Final = 'dd of="$1" bs="$2" seek=1 conv=notrunc,fsync status=none\n'

_NANOSECONDS: Final = 10**9
_MIB: Final = 1 << 20


class PlainSaveFiles:
    """See `godwit.ports.SaveFiles`."""

    def __init__(self, transport: Transport) -> None:
        """Work on the host behind `transport`."""
        self._transport = transport

    @property
    def _where(self) -> str:
        return self._transport.where

    async def begin(self, path: str, part: str, program: str) -> None:
        """Make `part`, with the place of the description empty. Raises HostError with the mend."""
        completed = await run_script(self._transport, _BEGIN, path, part, program, str(STREAM_AT))
        word, _, rest = completed.stdout.decode(errors="replace").strip().partition(" ")
        if word == "begun":
            return
        if word == "exists":
            message = f"{self._where} has a file {path} already, and it is not overwritten"
            raise HostError(message, remedy="choose another name, or move that file away")
        if word == "folder":
            message = f"{self._where} has no folder {rest}"
            raise HostError(message, remedy="make it there first")
        if word == "program":
            message = f"{self._where} has no {program}"
            raise HostError(message, remedy=f"install {program} there, or save without compression")
        message = f"{self._where} cannot make {part}: {rest or words_of(completed)}"
        raise HostError(message, remedy="see the folder's rights and the room on its disk")

    async def program_ended(self, part: str) -> str:
        """Return the status that the program which writes to `part` left; empty while there is none."""
        completed = await run_script(self._transport, _PROGRAM, status_of(part))
        return completed.stdout.decode(errors="replace").strip()

    async def measure(self, part: str, disks: Sequence[str]) -> tuple[int, tuple[DiskState, ...]]:
        """Return the length of `part` and the state of these disks, in one round trip."""
        length, states = await self._look(part, disks)
        for path, state in zip(disks, states, strict=True):
            if state is None:
                message = f"{path} is not to be seen as a file on {self._where}"
                raise HostError(message, remedy="see whether its storage is mounted, and who may read it")
        return length, tuple(state for state in states if state is not None)

    async def _look(self, part: str, disks: Sequence[str]) -> tuple[int, tuple[DiskState | None, ...]]:
        completed = await run_script(self._transport, _MEASURE, part, *disks)
        try:
            return parse_look(completed.stdout.decode(errors="replace"), disks)
        except (ValueError, IndexError):
            message = f"{self._where} does not say how large {part} is: {words_of(completed)}"
            raise HostError(message) from None

    async def complete(self, path: str, part: str, header: bytes) -> None:
        """Put the header in front, sync all of it, and give it its name; nothing is ever overwritten."""
        argv = ["sh", "-c", _COMPLETE, "sh", path, part]
        completed = await self._transport.run(argv, stdin=header, deadline=COMPLETE_DEADLINE)
        said = completed.stdout.decode(errors="replace").strip()
        if completed.status == 0 and said == "complete":
            return
        if said == "exists":
            message = f"{self._where} has a file {path} by now, and it is not overwritten"
            raise HostError(message, remedy="choose another name, or move that file away")
        message = f"{self._where} cannot complete {path}: {words_of(completed)}"
        raise HostError(message, remedy="see the folder's rights and the room on its disk")

    async def discard(self, part: str) -> None:
        """Remove a file that was begun, and what a program told beside it. Idempotent."""
        await run_script(self._transport, _DISCARD, part)

    async def head(self, path: str) -> tuple[int, bytes]:
        """Return length and beginning of a file. Raises HostError where there is none that can be read."""
        completed = await run_script(self._transport, _HEAD, path, str(STREAM_AT), check=False)
        line, _, head = completed.stdout.partition(b"\n")
        word, _, value = line.decode(errors="replace").partition(" ")
        if completed.status == 0 and word == "length":
            return number_in(value.encode(), f"the length of {path} on {self._where}"), head
        what = {"absent": "there is no", "no-file": "what is there is no file"}.get(word, "")
        message = (
            f"{self._where}: {what} {path}" if what else f"{self._where} cannot read {path}: {words_of(completed)}"
        )
        raise HostError(message, remedy="name the file as that host sees it")

    async def disks(self, paths: Sequence[str]) -> tuple[DiskState | None, ...]:
        """Return the state of files, None for one that is not there."""
        return (await self._look("/", paths))[1]

    async def chunk_sum(self, path: str, number: int) -> str:
        """Return the digest of one chunk of the stream."""
        size, first = CHUNK // _MIB, STREAM_AT // _MIB
        arguments = (path, str(size), str(first + number * size))
        completed = await run_script(self._transport, _CHUNK, *arguments, deadline=CHUNK_DEADLINE)
        words = completed.stderr.decode(errors="replace").strip()
        if words:
            message = f"{self._where} cannot read {path}: {words}"
            raise RemoteCommandError(message, remedy="see whether its disk is failing")
        return completed.stdout.decode(errors="replace").strip()

    async def seal(self, path: str, seal: bytes) -> None:
        """Put the seal in its place, and sync."""
        argv = ["sh", "-c", _SEAL, "sh", path, str(SEAL_AT)]
        completed = await self._transport.run(argv, stdin=seal, deadline=COMPLETE_DEADLINE)
        if completed.status != 0:
            message = f"{self._where} cannot write the checksums of {path}: {words_of(completed)}"
            raise HostError(message, remedy="see whether its disk is full or failing")


def parse_look(said: str, disks: Sequence[str]) -> tuple[int, tuple[DiskState | None, ...]]:
    """Read what _MEASURE prints of a file and of `disks`. Raises ValueError, IndexError."""
    length: int | None = None
    states: list[DiskState | None] = []
    for line in said.splitlines():
        word, _, rest = line.partition(" ")
        values = rest.split()
        if word == "length":
            length = int(values[0])
        elif word == "disk" and values:
            whole, _, part_of_second = values[1].partition(".")
            changed = int(whole) * _NANOSECONDS + int(part_of_second.ljust(9, "0")[:9])
            states.append(DiskState(disks[len(states)], int(values[0]), changed))
        elif word == "disk":
            states.append(None)
    if length is None or length < 0 or len(states) != len(disks):
        raise ValueError
    return length, tuple(states)
