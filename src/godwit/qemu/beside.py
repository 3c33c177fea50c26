"""The same guest as a second process on the same host: every name that only one process can have is another. Pure.

Two copies of one guest are there together while its QEMU is replaced. Their disks, MAC addresses and whatever else the
guest sees are the same; sockets, pidfiles, logs that QEMU makes and taps are not. The new names follow from the old
ones, so that whoever takes an interrupted replacement up finds them again, and carry a mark of Godwit's, so that they
are never another guest's.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.qemu import options, properties
from godwit.qemu.options import CommandLineError, Option
from godwit.qemu.paths import join, made_files, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from godwit.model import Launch, Vm

SHARING: Final = "aux-ram-share"
"""The machine's property that shares what memory it has beside the guest's own: ROMs, and a display's."""

LONGEST_SOCKET: Final = 107
"""Characters that the path of a UNIX socket may have: see unix(7)."""

TAKING_CAPABILITIES: Final = ("events", "return-path")
"""What a QEMU that takes memory over must have set from its start: it has no monitor before."""

_MARK: Final = re.compile(r"\.godwit-(?P<number>\d+)$")
_MACHINE: Final = frozenset({"machine", "M"})
_NETWORK: Final = frozenset({"netdev", "net", "nic"})
_CHARACTER: Final = frozenset("serial parallel monitor qmp qmp-pretty debugcon gdb".split())  # noqa: SIM905
_CONNECTS: Final = frozenset({"tcp", "telnet", "websocket", "tn3270"})
_YES: Final = frozenset({"on", "yes", "true", "y"})


def next_path(path: str) -> str:
    """Return the name beside a file's own: `x.sock` is followed by `x.sock.godwit-2`, and that by `.godwit-3`."""
    mark = _MARK.search(path)
    stem, number = (path[: mark.start()], int(mark["number"])) if mark else (path, 1)
    return f"{stem}.godwit-{number + 1}"


def next_tap(vm: str, interface: str) -> str:
    """Return the tap beside one of a guest's own: it names no other guest's, and has at most 15 characters."""
    return f"gw{hashlib.sha256(f'{vm}/{interface}'.encode()).hexdigest()[:10]}"


def beside(vm: Vm, launch: Launch, program: str) -> Vm:
    """Return the guest as another process of `program`, started as `launch` says but for what they cannot share.

    Raises InputError for a command line that cannot be read, a TCP port that both would listen at, and a socket whose
    new path is longer than sockets may be.
    """
    try:
        found = options.parse(launch.argv[1:])
        _refuse_ports(vm.name, found)
        renamed = [_renamed(vm.name, option) for option in found]
    except CommandLineError as error:
        message = f"the command line of {vm.name} cannot be read: {error}"
        raise InputError(message) from error
    control = next_path(vm.control)
    if len(control) > LONGEST_SOCKET:
        message = f"{control} is too long for a socket ({len(control)} characters of {LONGEST_SOCKET})"
        raise InputError(message, remedy="start the guest with its -qmp socket at a shorter path, and adopt it again")
    taps = tuple(replace(tap, interface=next_tap(vm.name, tap.interface)) for tap in launch.taps)
    return replace(
        vm,
        launch=replace(launch, argv=(program, *options.render(renamed)), taps=taps),
        control=control,
        observe=vm.observe and next_path(vm.observe),
        console=vm.console and next_path(vm.console),
        pidfile=vm.pidfile and next_path(vm.pidfile),
    )


def taking_argv(launch: Launch, path: str) -> tuple[str, ...]:
    """Return the command line of a QEMU that takes memory over at `path`, where it waits, and stays paused.

    Capabilities are set as properties of QEMU's migration object: until the stream begins there is no monitor.
    """
    words = [*launch.argv, "-S"]
    for channel in channels(path):
        words += ["-incoming", json.dumps(channel, separators=(",", ":"))]
    for capability in TAKING_CAPABILITIES:
        words += ["-global", f"migration.x-{capability}=on"]
    return tuple(words)


def channels(path: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return the two channels of a hand-over (MigrationChannel in qapi/migration.json): `cpr` is at `path` itself."""

    def channel(kind: str, socket: str) -> dict[str, object]:
        return {"channel-type": kind, "addr": {"transport": "socket", "type": "unix", "path": socket}}

    return channel("main", f"{path}-main"), channel("cpr", path)


def unshared(launch: Launch) -> Launch:
    """Return the launch for a QEMU that cannot share the memory of ROMs: the guest sees no difference."""
    kept = [
        join(option, split(option).without(SHARING)) if option.name in _MACHINE else option
        for option in options.parse(launch.argv[1:])
    ]
    return replace(launch, argv=(launch.argv[0], *options.render(kept)))


def _renamed(vm: str, option: Option) -> Option:
    if option.name in _NETWORK:
        pairs = split(option)
        interface = pairs.get("ifname")
        return join(option, pairs.put("ifname", next_tap(vm, interface))) if interface else option
    made = set(made_files((option,)))
    if not made:
        return option
    return _rewritten(option, lambda path: next_path(path) if path in made else path)


def _rewritten(option: Option, change: Callable[[str], str]) -> Option:
    value = option.value or ""
    if option.name in {"pidfile", "D"}:
        return replace(option, value=change(value))
    if option.name == "chardev":
        if _reads_only(option):
            return option
        return join(option, split(option).map(lambda key, text: change(text) if key in {"path", "logfile"} else text))
    head = "mon:" if value.startswith("mon:") else ""
    rest = value.removeprefix("mon:")
    if rest.startswith("unix:"):
        pairs = properties.parse(rest.removeprefix("unix:"), "path")
        if "server" not in value and option.name != "vnc":
            return option
        return replace(option, value=f"{head}unix:{pairs.map(lambda k, text: change(text) if k == 'path' else text)}")
    return replace(option, value=f"{head}file:{change(rest.removeprefix('file:'))}")


def _reads_only(option: Option) -> bool:
    """Say whether a character device connects to a socket that somebody else serves: both processes may."""
    pairs = split(option)
    return pairs.get("backend") == "socket" and not _serves(pairs)


def _serves(pairs: properties.Properties) -> bool:
    return any(key == "server" and (value is None or value in _YES) for key, value in pairs.items())


def _refuse_ports(vm: str, found: Iterable[Option]) -> None:
    held = [" ".join(option.words()) for option in found if any(_listens(option))]
    if held:
        message = f"{vm} listens at a TCP port, which two processes cannot have: {'; '.join(held)}"
        raise InputError(message, remedy="start it with a UNIX socket instead, or move it to another host and back")


def _listens(option: Option) -> Iterator[bool]:
    """Yield True for an option that takes a TCP port for good; a VNC display is moved to a free one instead."""
    value = option.value or ""
    if option.name in _CHARACTER:
        kind, _, rest = value.removeprefix("mon:").partition(":")
        yield kind in _CONNECTS and (option.name == "gdb" or _serves(properties.parse(rest, "address")))
    elif option.name == "chardev":
        pairs = split(option)
        yield pairs.get("backend") == "socket" and pairs.get("port") is not None and _serves(pairs)
    elif option.name == "spice":
        pairs = split(option)
        yield any(pairs.get(key) not in {None, "0"} for key in ("port", "tls-port"))
    elif option.name in _NETWORK:
        pairs = split(option)
        yield any(key.startswith("hostfwd") for key, _ in pairs.items())
        yield pairs.get("listen") is not None
    elif option.name == "s":
        yield True
