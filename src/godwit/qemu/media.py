"""The disks of a running guest, and whether they still are those of its command line. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.addresses import is_network_address
from godwit.errors import HypervisorError
from godwit.model import DiskFacts, StrayImage
from godwit.qemu.options import CommandLineError
from godwit.qemu.paths import IMAGES, split
from godwit.qemu.reply import flag, inner, text, whole
from godwit.qemu.stamps import trusted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from godwit.qemu.options import Option
    from godwit.qemu.paths import Resolver

LONGEST_CHAIN: Final = 256
"""Backing files below one disk: a longer chain is slow beyond use, or a loop."""

_NO_FILES: Final = ("json:", "nbd:", "fat:")


def disks(rows: Iterable[Mapping[str, object]], resolver: Resolver) -> Iterator[DiskFacts]:
    """Read the reply of query-block: each disk, and the backing files below it as read-only ones.

    Raises HypervisorError for a chain that is too long, MonitorProtocolError.
    """
    for row in rows:
        if "inserted" not in row:
            continue
        inserted = inner(row, "inserted")
        image = inner(inserted, "image")
        yield DiskFacts(
            name=name_of(row),
            path=_absolute(text(inserted, "file"), resolver),
            format=_format_of(text(inserted, "drv")),
            read_only=flag(inserted, "ro"),
            virtual_size=whole(image, "virtual-size"),
            stamps=tuple(trusted(inserted)),
            firmware=_is_flash(row),
            direct=flag(inner(inserted, "cache"), "direct") if "cache" in inserted else True,
        )
        for _ in range(LONGEST_CHAIN):
            if "backing-image" not in image:
                break
            image = inner(image, "backing-image")
            yield DiskFacts(
                name=f"{name_of(row)} backing",
                path=_absolute(text(image, "filename"), resolver),
                format=text(image, "format"),
                read_only=True,
                virtual_size=whole(image, "virtual-size"),
                backs=name_of(row),
            )
        else:
            message = f"the disk {name_of(row)} has more than {LONGEST_CHAIN} backing files below it"
            raise HypervisorError(message, remedy="commit some of them: qemu-img commit, or block-commit")


def written(rows: Iterable[Mapping[str, object]]) -> int:
    """Read the reply of query-blockstats: the bytes that the guest has written to all of its disks."""
    return sum(whole(inner(row, "stats"), "wr_bytes") for row in rows)


def _format_of(driver: str) -> str:
    """Return the format of a disk by its node's driver: a file without one above it gives its bytes as they are."""
    return "raw" if driver == "file" else driver


def _is_flash(row: Mapping[str, object]) -> bool:
    """Say whether a row of query-block is flash memory (if=pflash, or the machine's pflash0 and pflash1)."""
    return "pflash" in text(row, "device") or "flash" in text(row, "qdev").rsplit("/", 1)[-1]


def name_of(row: Mapping[str, object]) -> str:
    """Return what to call a row of query-block: its drive's name, else its device's identifier."""
    device = text(row, "device")
    if device:
        return device
    return text(row, "qdev").removesuffix("/virtio-backend").rsplit("/", 1)[-1]


def changed(
    rows: Sequence[Mapping[str, object]], found: Iterable[Option], added: Iterable[Option], resolver: Resolver
) -> Iterator[str]:
    """Yield a refusal for each disk whose file is on no command line: a snapshot was taken, or a medium changed."""
    known = {_absolute(path, resolver) for option in (*found, *added) for path in _files(option)}
    for row in rows:
        if "inserted" in row:
            path = _absolute(text(inner(row, "inserted"), "file"), resolver)
            if path.startswith("/") and path not in known:
                yield f"the disk {name_of(row)} is {path} by now, which its command line does not name"


def stray(rows: Iterable[Mapping[str, object]], resolver: Resolver) -> Iterator[StrayImage]:
    """Yield the writable images with relative names, for a QEMU that went to "/".

    When a migration ends it opens them anew, without the right to write (raw_reconfigure_getfd() in
    block/file-posix.c), does not find them, and refuses to hand them over: "Bad address".
    """
    for row in rows:
        inserted = inner(row, "inserted") if "inserted" in row else {}
        name = text(inserted, "file").removeprefix("file:") if inserted and not flag(inserted, "ro") else ""
        if name and not name.startswith(("/", *_NO_FILES)) and not is_network_address(name):
            yield StrayImage(_absolute(name, resolver), name)


def ejected(
    rows: Sequence[Mapping[str, object]], found: Sequence[Option]
) -> tuple[dict[int, dict[str, str]], list[str]]:
    """Return what empties the CD drives whose medium was taken out, by place, and refusals where that is unclear."""
    filled = {place: option for place, option in enumerate(found) if _is_filled_drive(option)}
    drives = [row for row in rows if flag(row, "removable") and "-cd" in text(row, "device")]
    named = {text(row, "device"): row for row in rows}
    put: dict[int, dict[str, str]] = {}
    unclear = []
    for place, option in filled.items():
        identifier = split(option).get("id") if option.name == "drive" else None
        row = named.get(identifier) if identifier else drives[0] if len(filled) == len(drives) == 1 else None
        if row is None and any("inserted" not in drive for drive in drives):
            unclear.append(f"{' '.join(option.words())}: a medium was taken out, and nobody knows from which drive")
        elif row is not None and "inserted" not in row:
            put[place] = {"": ""} if option.name == "cdrom" else {"file": ""}
    for option in found:
        pairs = split(option) if option.name == "device" else None
        if pairs is None or pairs.get("drive") is None or not (pairs.get("driver") or "").endswith("-cd"):
            continue
        if any("inserted" not in row and name_of(row) == pairs.get("id") for row in rows):
            unclear.append(f"-device {option.value}: its medium was taken out")
    return put, unclear


def _is_filled_drive(option: Option) -> bool:
    if option.name == "cdrom":
        return bool(option.value)
    if option.name != "drive":
        return False
    pairs = split(option)
    return pairs.get("media") == "cdrom" and bool(pairs.get("file"))


def _files(option: Option) -> Iterator[str]:
    if option.name in IMAGES:
        yield option.value or ""
    elif option.name == "drive":
        yield from (value for key, value in split(option).items() if value and _names_file(key))
    elif option.name == "blockdev":
        yield from (value for key, value in split(option).items() if value and key.endswith("filename"))


def _names_file(key: str) -> bool:
    return key == "file" or key.endswith("filename")


def _absolute(path: str, resolver: Resolver) -> str:
    if path.startswith(_NO_FILES):
        return path
    try:
        return resolver.image(path).removeprefix("file:")
    except CommandLineError:
        return path
