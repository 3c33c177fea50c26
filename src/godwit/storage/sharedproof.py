"""The proof that two hosts see the same file: a token that one leaves beside it is found by the other.

The token lies in a hidden neighbour of the disk, not in the disk: nothing that a guest owns is touched. Its name is
made from the disk's, after symbolic links are resolved, so two disks of one folder do not meet.
"""

from __future__ import annotations

import re
from typing import Final

from godwit.errors import BusyError, GodwitError, HostError, InputError

_TOKEN: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")

_FIND_PLACE: Final = r"""
path=$1
real=$(readlink -f -- "$path") && [ -e "$real" ] || { echo "absent"; exit 0; }
neighbour=${real%/*}/.godwit-$(printf %s "${real##*/}" | cksum | tr ' ' -)
"""

PLANT: Final = (
    _FIND_PLACE
    + r"""
token=$2 patience=$3 oldest=$4
set -C
attempts=$((patience * 20))
# noclobber makes the shell open with O_EXCL: of two that plant at once, one waits for the other to take its token away.
until said=$({ printf '%s\n' "$token" > "$neighbour"; } 2>&1); do
    [ -e "$neighbour" ] || { echo "refused $said"; exit 0; }
    # A former runner of the same check planted it and died.
    [ "$(cat -- "$neighbour" 2>/dev/null)" = "$token" ] && break
    age=$(($(date +%s) - $(stat -c %Y -- "$neighbour" 2>/dev/null || date +%s)))
    if [ "$age" -gt "$oldest" ]; then rm -f -- "$neighbour"; continue; fi
    [ "$attempts" -gt 0 ] || { echo "busy $neighbour"; exit 0; }
    attempts=$((attempts - 1))
    sleep 0.05
done
echo planted
"""
)
"""$1 the disk, $2 the token, $3 seconds of patience with another's token, $4 the age in seconds that makes it stale."""

FIND: Final = (
    _FIND_PLACE
    + r"""
echo "identity $(stat -L -c '%s:%i' -- "$real")"
# A file handle of a network file system may know of the file's absence still: listing the folder asks the server.
ls -a -- "${real%/*}" > /dev/null 2>&1
if [ -r "$neighbour" ]; then echo "token $(head -c 200 -- "$neighbour")"; fi
"""
)
"""$1 is the disk; prints its size and inode and the token beside it, as far as they are there."""

REMOVE: Final = (
    _FIND_PLACE
    + r"""
# Another check may have taken ours for a left-over, and planted its own.
if [ "$(cat -- "$neighbour" 2>/dev/null)" = "$2" ]; then rm -f -- "$neighbour"; fi
"""
)
"""$1 is the disk, $2 the token."""

PATIENCE: Final = 5
"""Seconds to wait for another check of the same disk."""

LEFT_OVER: Final = 60
"""Age in seconds at which a token is one that nobody came back for."""


def check_path(path: str) -> str:
    """Return `path`; raise InputError where it is none that the two hosts could mean alike."""
    if not path.startswith("/"):
        message = f"{path!r} is no absolute path of a disk"
        raise InputError(message)
    return path


def check_token(token: str) -> str:
    """Return `token`; raise InputError for one that would not come back unchanged."""
    if _TOKEN.fullmatch(token) is None:
        message = f"{token!r} can be no token: 1 to 200 letters, digits, '.', '_' and '-'"
        raise InputError(message)
    return token


def planting_error(where: str, path: str, said: str) -> GodwitError | None:
    """Return what PLANT's output means: None where the token lies there."""
    word, _, words = said.strip().partition(" ")
    if word == "planted":
        return None
    if word == "absent":
        return HostError(f"{where} has no {path}", remedy="see whether the storage is mounted at this place")
    if word == "busy":
        return BusyError(f"another check of {path} is under way on {where}", remedy=f"wait a minute, or remove {words}")
    message = f"{where} cannot leave a token beside {path}: {words or said.strip() or 'the shell said nothing'}"
    return HostError(message, remedy="the user needs the right to make files in the disk's folder")


def parse_found(said: str) -> tuple[str | None, str]:
    """Return the token and the file's identity from FIND's output; the identity is empty where there is no file."""
    values = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    token = values.get("token", "").strip()
    return (token or None), values.get("identity", "").strip()
