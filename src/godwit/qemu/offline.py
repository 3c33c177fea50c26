"""The disks that a command line names, for a guest that is off. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.snapshots import DiskSnapshots
from godwit.errors import HypervisorError
from godwit.qemu.commandline import parse
from godwit.qemu.options import CommandLineError
from godwit.qemu.paths import IMAGES, Resolver, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from godwit.model import Launch
    from godwit.qemu.options import Option
    from godwit.qemu.properties import Properties

_READ_ONLY: Final = frozenset({"on", "true", "yes"})
_CHILD: Final = ("file", "file.filename", "filename")


def disks_of(launch: Launch) -> tuple[DiskSnapshots, ...]:
    """Return the disks of a guest that `launch` would start, without their snapshots.

    The format is empty where the command line leaves it to QEMU. Raises HypervisorError for one that cannot be read.
    """
    try:
        found = parse(launch.argv)
        resolver = Resolver(launch.working_directory)
        disks = [*_plain(found), *_nodes(found)]
        return tuple(
            DiskSnapshots(name, resolver.image(path).removeprefix("file:"), kind, read_only)
            for name, path, kind, read_only in disks
        )
    except CommandLineError as error:
        message = f"the guest's command line cannot be read: {error}"
        raise HypervisorError(message) from error


def _plain(found: Sequence[Option]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield the disks of -hda, -cdrom, -pflash and -drive, and of a bare image."""
    counts: dict[str, int] = {}
    for option in found:
        if option.name in IMAGES and option.value:
            yield option.name or "hda", option.value, "", option.name == "cdrom"
        elif option.name == "drive":
            pairs = split(option)
            kind = pairs.get("if") or "drive"
            number = counts[kind] = counts.get(kind, -1) + 1
            path = pairs.get("file") or pairs.get("file.filename")
            if path:
                read_only = pairs.get("media") == "cdrom" or _is_read_only(pairs)
                name = pairs.get("id") or f"{kind}{pairs.get('index') or pairs.get('unit') or number}"
                yield name, path, pairs.get("format") or pairs.get("driver") or "", read_only


def _nodes(found: Sequence[Option]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield the disks of -blockdev: the nodes that no other one stands on."""
    nodes = [split(option) for option in found if option.name == "blockdev"]
    named = {identifier: node for node in nodes if (identifier := node.get("node-name"))}
    below = {value for node in nodes for key in ("file", "backing") if (value := node.get(key))}
    attached = [split(option) for option in found if option.name == "device"]
    devices = {pairs.get("drive"): pairs.get("id") for pairs in attached}
    for name, node in named.items():
        path = _path(node, named)
        if name not in below and path:
            yield devices.get(name) or name, path, node.get("driver") or "", _is_read_only(node)


def _path(node: Properties, named: dict[str, Properties]) -> str:
    """Return the file that a node ends in, empty where it ends in none."""
    for key in _CHILD:
        value = node.get(key)
        if value is None:
            continue
        if key == "file":
            return _path(named[value], named) if value in named else ""
        return value
    return ""


def _is_read_only(pairs: Properties) -> bool:
    return any(pairs.get(key) in _READ_ONLY for key in ("read-only", "readonly"))
