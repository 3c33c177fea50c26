"""The description in front of a saved guest's stream: what it is of, and how it is known to be whole.

A save is one file. Its first MiB holds two texts that anybody can read (`head -c 4096 FILE`): the header, written when
the stream is complete, and the seal with the checksums, written when they have been made. Each begins with a line of
its own and the digest of what follows. Behind them is QEMU's stream, as QEMU wrote it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from godwit.core.saves import CHUNK, SEAL_AT, STREAM_AT, Way
from godwit.errors import SaveFileError
from godwit.model import Vm  # noqa: TC001 - pydantic reads it at run time

T = TypeVar("T")

VERSION: Final = 1
_DIGITS: Final = 9
HEADER: Final = b"GODWIT-SAVE"
SEAL: Final = b"GODWIT-SEAL"
_ASK: Final = "see whether it is the file that was meant; a save begins with GODWIT-SAVE"
_AGAIN: Final = "take another copy of the file if there is one; the guest's disks are not touched by this"


@dataclass(frozen=True, slots=True)
class DiskState:
    """A file that the guest has open, as it was when it stood still; `changed` is in nanoseconds of UNIX time."""

    path: str
    size: int
    changed: int

    def __str__(self) -> str:
        """Say it for people."""
        return f"{self.size} bytes, last changed at {self.changed / 1e9:.6f}"


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed to start the guest again. `length` is that of the whole file, `vm.launch` starts its QEMU."""

    id: str
    vm: Vm
    machine: str
    qemu_version: tuple[int, int, int]
    accelerator: str
    memory: int
    way: Way
    running: bool
    saved_at: float
    length: int
    disks: tuple[DiskState, ...]


@dataclass(frozen=True, slots=True)
class Seal:
    """Digests, made when QEMU had ended: of the stream's chunks in order, and of each disk (path, size and digest)."""

    id: str
    sums: tuple[str, ...]
    disks: tuple[tuple[str, str], ...]


_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - one of the two above
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def chunks(length: int) -> int:
    """Return how many chunks the stream of a file of `length` bytes has."""
    return -(-(length - STREAM_AT) // CHUNK)


def encode_header(header: Header) -> bytes:
    """Return the header as it stands at the beginning of the file. Raises SaveFileError where it is too long."""
    return _framed(HEADER, header, SEAL_AT)


def encode_seal(seal: Seal) -> bytes:
    """Return the seal as it stands at SEAL_AT. Raises SaveFileError where it is too long."""
    return _framed(SEAL, seal, STREAM_AT - SEAL_AT)


def _framed(word: bytes, value: object, room: int) -> bytes:
    body = _adapter(type(value)).dump_json(value)
    digest = hashlib.sha256(body).hexdigest()
    framed = b"%s %d %d %s\n%s\n" % (word, VERSION, len(body), digest.encode(), body)
    if len(framed) > room:
        message = f"the description of this guest takes {len(framed)} bytes, and a save has room for {room}"
        raise SaveFileError(message)
    return framed


def decode_header(head: bytes, length: int, path: str) -> Header:
    """Read the header of a file of `length` bytes that begins with `head`. Raises SaveFileError."""
    if not head.startswith(HEADER + b" "):
        message = f"{path} is no save of a guest"
        raise SaveFileError(message, remedy=_ASK)
    header = _unframed(HEADER, Header, head[:SEAL_AT], path)
    if cannot_be := _nonsense(header):
        message = f"{path} has a description that cannot be meant: {cannot_be}"
        raise SaveFileError(message, remedy=_ASK)
    if header.length != length:
        words = "cut off" if length < header.length else "not as it was written"
        message = f"{path} is {words}: it has {length} bytes, and had {header.length} when it was complete"
        raise SaveFileError(message, remedy=_AGAIN)
    return header


def _nonsense(header: Header) -> str:
    """Say what of a description no Godwit can have written, empty where it may be whole."""
    launch = header.vm.launch
    texts = (*launch.argv, launch.working_directory, *launch.folders, header.vm.control, header.machine)
    if not launch.argv or not launch.argv[0] or any("\0" in text for text in texts):
        return "it has no command line that a process can be given"
    paths = (header.vm.control, launch.working_directory, *launch.folders)
    if not all(path.startswith("/") for path in paths):
        return "a path in it is not absolute"
    if header.memory < 0 or header.length < STREAM_AT or not math.isfinite(header.saved_at):
        return "a size or an instant in it is none"
    return ""


def decode_seal(head: bytes, header: Header, path: str) -> Seal | None:
    """Read the seal, or return None where the checksums were never made. Raises SaveFileError where it is damaged."""
    text = head[SEAL_AT:STREAM_AT]
    if not text.strip(b"\0"):
        return None
    seal = _unframed(SEAL, Seal, text, path)
    if seal.id != header.id or len(seal.sums) != chunks(header.length):
        message = f"{path} is damaged: its checksums are those of another save"
        raise SaveFileError(message, remedy=_AGAIN)
    return seal


def _unframed(word: bytes, kind: type[T], text: bytes, path: str) -> T:
    line, _, rest = text.partition(b"\n")
    parts = line.split(b" ")
    what = "description" if word == HEADER else "list of checksums"
    if len(parts) != 4 or parts[0] != word or not all(part.isdigit() and len(part) <= _DIGITS for part in parts[1:3]):  # noqa: PLR2004 - the line
        message = f"{path} is damaged: its {what} cannot be read"
        raise SaveFileError(message, remedy=_AGAIN)
    if int(parts[1]) != VERSION:
        message = f"{path} is a save of format {int(parts[1])}, and this Godwit knows format {VERSION}"
        raise SaveFileError(message, remedy="restore it with the Godwit that made it, or a newer one")
    body = rest[: int(parts[2])]
    if hashlib.sha256(body).hexdigest().encode() != parts[3]:
        message = f"{path} is damaged: its {what} is not as it was written"
        raise SaveFileError(message, remedy=_AGAIN)
    try:
        return cast("T", _adapter(kind).validate_json(body))
    except ValidationError as error:
        message = f"{path} has a {what} that cannot be meant: {error.errors()[0]['msg']}"
        raise SaveFileError(message, remedy=_AGAIN) from None


def differing(disk: DiskState, now: DiskState | None, host: str) -> str:
    """Say how a disk differs from what it was when the guest was saved; empty where it does not."""
    if now is None:
        return f"{host} has no {disk.path}"
    if now != disk:
        return f"{disk.path} on {host} has changed since: it was {disk}, and is {now}"
    return ""
