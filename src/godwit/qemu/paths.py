"""Which values of QEMU's options name files, and what they mean from another working directory. Pure."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.qemu import properties
from godwit.qemu.options import CommandLineError, Option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_WHOLE: Final = frozenset("kernel initrd dtb shim pidfile D mem-path readconfig dump-vmstate L chroot".split())  # noqa: SIM905
IMAGES: Final = frozenset(["", *"hda hdb hdc hdd fda fdb cdrom pflash mtdblock sd".split()])  # noqa: SIM905
"""Options whose whole value is the file name of a disk."""

_FIRMWARE: Final = frozenset({"bios"})
_CHARACTER: Final = frozenset("serial parallel monitor qmp qmp-pretty debugcon gdb".split())  # noqa: SIM905

IMPLIED: Final = {
    "blockdev": "driver",
    "chardev": "backend",
    "device": "driver",
    "display": "type",
    "fsdev": "fsdriver",
    "fw_cfg": "name",
    "machine": "type",
    "M": "type",
    "name": "guest",
    "net": "type",
    "netdev": "type",
    "nic": "type",
    "object": "qom-type",
    "option-rom": "romfile",
    "plugin": "file",
    "tpmdev": "type",
    "trace": "enable",
    "virtfs": "fsdriver",
    "vnc": "vnc",
    "accel": "accel",
    "audiodev": "driver",
    "icount": "shift",
    "mon": "chardev",
}
"""The key of a first value that stands alone, for each option that has one (implied_opt_name of its QemuOptsList)."""

_NETWORK: Final = frozenset(
    {"script", "downscript", "helper", "vhostdev", "smb", "tftp", "sock", "path"}
    | {"addr.path", "local.path", "remote.path"}
)
_KEYED: Final[dict[str, frozenset[str]]] = {
    "acpitable": frozenset({"file", "data"}),
    "audiodev": frozenset({"path"}),
    "chardev": frozenset({"path", "logfile", "input-path"}),
    "display": frozenset({"rendernode"}),
    "fsdev": frozenset({"path", "socket"}),
    "fw_cfg": frozenset({"file"}),
    "icount": frozenset({"rrfile"}),
    "machine": frozenset({"kernel", "initrd", "dtb"}),
    "M": frozenset({"kernel", "initrd", "dtb"}),
    "net": _NETWORK,
    "netdev": _NETWORK,
    "nic": _NETWORK,
    "object": frozenset({"filename", "mem-path", "dir", "file", "path", "evdev", "dh-cert-file", "session-file"}),
    "plugin": frozenset({"file"}),
    "run-with": frozenset({"chroot"}),
    "smbios": frozenset({"file", "path"}),
    "spice": frozenset({"x509-dir", "x509-key-file", "x509-cert-file", "x509-cacert-file", "x509-dh-key-file"}),
    "tpmdev": frozenset({"path", "cancel-path"}),
    "trace": frozenset({"events", "file"}),
    "virtfs": frozenset({"path", "socket"}),
}
_SEARCHED: Final = {"device": frozenset({"romfile", "file"}), "option-rom": frozenset({"romfile"})}
"""QEMU looks for these in its firmware folders, too: only a value with a slash is surely a path."""

_NOT_PATHS: Final = frozenset({"", "no"})
_COLON_LISTS: Final = "acpitable"


def split(option: Option) -> properties.Properties:
    """Return the key=value pairs of an option. Raises CommandLineError."""
    return properties.parse(option.value or "", IMPLIED.get(option.name, ""))


def join(option: Option, changed: properties.Properties) -> Option:
    """Return the option with other key=value pairs."""
    return replace(option, value=str(changed))


@dataclass(frozen=True, slots=True)
class Resolver:
    """Turns relative paths into absolute ones; `folder` is where QEMU resolves them, None if nobody knows."""

    folder: str | None

    def path(self, path: str) -> str:
        """Return a plain path absolutely. Raises CommandLineError where it is relative and the folder unknown."""
        if path.startswith("/") or path in _NOT_PATHS:
            return path
        if self.folder is None:
            message = (
                f"the path {path} is relative, and nobody knows to which folder: QEMU went to / when it daemonized"
            )
            raise CommandLineError(message)
        return posixpath.join(self.folder, path.removeprefix("./"))

    def image(self, name: str) -> str:
        """Return a block device's file name, which may have a protocol before it (block.c, path_has_protocol)."""
        if name.startswith("json:"):
            document = properties.parse(name.removeprefix("json:"))
            return f"json:{json.dumps(_documented(document.map(self._block)), separators=(',', ':'))}"
        if name.startswith("file:"):
            return "file:" + self.path(name.removeprefix("file:"))
        if name.startswith("fat:"):
            head, colon, folder = name.rpartition(":")
            return head + colon + self.path(folder)
        if ":" in name.split("/", 1)[0]:
            return name
        return self.path(name)

    def _block(self, key: str, value: str) -> str:
        last = key.rsplit(".", 1)[-1]
        if last in {"filename", "dir"} or key.endswith("server.path"):
            return self.path(value)
        return value

    def option(self, option: Option) -> Option:
        """Return the option with absolute paths. Raises CommandLineError."""
        if option.value is None:
            return option
        whole = self._whole_changer(option.name, option.value)
        if whole is not None:
            return replace(option, value=whole(option.value))
        change = self._changer(option.name)
        if change is None:
            return option
        before = split(option)
        after = before.map(change)
        return option if after == before else join(option, after)

    def _whole_changer(self, name: str, value: str) -> Callable[[str], str] | None:
        """Return how to change an option whose value is no key=value list but one path."""
        if name in _WHOLE or (name in _FIRMWARE and "/" in value):
            return self.path
        if name in IMAGES:
            return self.image
        if name in _CHARACTER or (name == "vnc" and value.startswith("unix:")):
            return self.character
        return None

    def character(self, value: str) -> str:
        """Return the old syntax of a character device, such as unix:PATH,server,nowait, with an absolute path."""
        if value.startswith("mon:"):
            return "mon:" + self.character(value.removeprefix("mon:"))
        if value.startswith("unix:"):
            return "unix:" + _first(value.removeprefix("unix:"), self.path)
        for prefix in ("file:", "pipe:"):
            if value.startswith(prefix):
                return prefix + self.path(value.removeprefix(prefix))
        return value

    def _changer(self, name: str) -> Callable[[str, str], str] | None:
        if name == "blockdev":
            return self._block
        if name == "drive":
            return lambda key, value: self.image(value) if key == "file" else self._block(key, value)
        if name in _SEARCHED:
            keys = _SEARCHED[name]
            return lambda key, value: self.path(value) if key in keys and "/" in value else value
        if name in _KEYED:
            keys = _KEYED[name]
            if name == _COLON_LISTS:
                return lambda key, value: ":".join(map(self.path, value.split(":"))) if key in keys else value
            return lambda key, value: self.path(value) if key in keys else value
        return None


def made_files(found: Iterable[Option]) -> Iterator[str]:
    """Yield the sockets, logs and pidfiles that QEMU makes: their folders must exist before it starts."""
    for option in found:
        value = option.value or ""
        if option.name in {"pidfile", "D"}:
            yield value
        elif option.name in _CHARACTER:
            plain = value.removeprefix("mon:")
            for prefix in ("unix:", "file:"):
                if plain.startswith(prefix):
                    rest = plain.removeprefix(prefix)
                    yield properties.parse(rest, "path").get("path") or "" if prefix == "unix:" else rest
        elif option.name == "chardev":
            pairs = split(option)
            kept = ["logfile"] + (["path"] if pairs.get("backend") in {"socket", "file"} else [])
            yield from (path for path in map(pairs.get, kept) if path)
        elif option.name == "vnc" and value.startswith("unix:"):
            yield properties.parse(value.removeprefix("unix:"), "path").get("path") or ""


def _first(value: str, change: Callable[[str], str]) -> str:
    """Return a list whose first, bare value is changed."""
    pairs = properties.parse(value, "path")
    return str(pairs.map(lambda key, text: change(text) if key == "path" else text))


def _documented(found: properties.Properties) -> dict[str, object]:
    return found.document or {}
