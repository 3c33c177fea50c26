"""The command line that starts a running guest once more, on another host. Pure.

What a QEMU was started with is taken as it stands, with these changes: paths are absolute, the machine type is the
running machine's and no alias, the accelerator is the one in use, what was plugged since is there, what was unplugged
is not, PCI and MAC addresses are written out, and what made sense at the first start only is gone.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from godwit.model import Launch, Tap
from godwit.qemu import options, properties
from godwit.qemu.options import CommandLineError, Option
from godwit.qemu.ownership import opened_macvtap
from godwit.qemu.paths import Resolver, join, made_files, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from godwit.qemu.process import ProcessFacts

_FIRST_START: Final = frozenset({"incoming", "S", "preconfig", "loadvm", "daemonize"})
"""Left out: who starts the guest detaches it; with -daemonize QEMU's last words would go to /dev/null."""

_MACHINE: Final = frozenset({"machine", "M"})
_WINDOWS: Final = frozenset({"gtk", "sdl", "cocoa", "curses", "spice-app", "default"})
_DISPLAYS: Final = frozenset({"display", "vnc", "nographic", "sdl", "curses", "spice"})
_VNC_BASE: Final = 5900
_VNC_DISPLAY: Final = re.compile(r"^(?P<host>[^,]*):(?P<display>\d+)(?=,|$)")
_OPAQUE: Final = {
    "snapshot": "what was written since its start is in temporary files of this host",
    "readconfig": "its devices cannot be told from those that were plugged in later",
    "writeconfig": "it would overwrite its file on the other host",
}


@dataclass(frozen=True, slots=True)
class Running:
    """What QMP says of the running machine, as far as its command line does not say it.

    The mappings have an option's place in the command line (0 is the first after the program) as their key: what to
    put into its key=value list (the key "" stands for the whole value), and which options to leave out. `added` are
    options for what was plugged in since. `machine` is the canonical type.
    """

    machine: str
    accelerator: str
    put: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()
    added: tuple[Option, ...] = ()


def parse(argv: Iterable[str]) -> tuple[Option, ...]:
    """Read a whole command line, without its program. Raises CommandLineError."""
    return options.parse(tuple(argv)[1:])


def target_launch(process: ProcessFacts, running: Running) -> tuple[Launch, tuple[str, ...]]:
    """Return how to start the guest on another host, and what of its command line cannot be carried over.

    `-incoming defer -S` is not in it: see `incoming_argv`. Raises CommandLineError for a command line that Godwit
    cannot read.
    """
    found = parse(process.argv)
    resolver = resolver_of(process, found)
    refusals = [f"{' '.join(option.words())}: {_OPAQUE[option.name]}" for option in found if option.name in _OPAQUE]
    refusals += [
        f"{' '.join(option.words())}: {_OPAQUE['snapshot']}"
        for option in found
        if option.name == "drive" and split(option).get("snapshot") == "on"
    ]
    kept: list[Option] = []
    for place, option in enumerate(found):
        if option.name in _FIRST_START or option.name in _OPAQUE or place in running.removed:
            continue
        try:
            resolved = resolver.option(_put(option, running.put.get(place, {})))
        except CommandLineError as error:
            refusals.append(f"{' '.join(option.words())}: {error}")
        else:
            kept.append(resolved)
    changed = [*_display(_accelerator(_machine(kept, running.machine), running.accelerator)), *running.added]
    folders = sorted({posixpath.dirname(path) for path in made_files(changed) if path.startswith("/")})
    launch = Launch(
        argv=(process.argv[0], *options.render(changed)),
        working_directory="/",
        folders=tuple(folders),
        taps=(*taps(changed), *_inherited(changed, process.macvtaps)),
    )
    return launch, tuple(refusals)


def resolver_of(process: ProcessFacts, found: Iterable[Option]) -> Resolver:
    """Return what resolves the relative paths of a running QEMU's command line.

    Where it went to "/", the shell's PWD at its start counts, if that is known.
    """
    return Resolver(process.environment.get("PWD") if went_to_root(process, found) else process.cwd)


def went_to_root(process: ProcessFacts, found: Iterable[Option]) -> bool:
    """Say whether QEMU left the folder that it was started in, as it does with -daemonize (os-posix.c)."""
    return process.cwd == "/" and any(option.name == "daemonize" for option in found)


def qmp_sockets(process: ProcessFacts, found: Iterable[Option]) -> Iterator[str]:
    """Yield the QMP sockets that a running QEMU's command line gives it, absolutely. Raises CommandLineError."""
    options = tuple(found)
    resolver = resolver_of(process, options)
    chardevs = {}
    for option in options:
        if option.name in {"qmp", "qmp-pretty"} and (option.value or "").startswith("unix:"):
            path = (option.value or "").removeprefix("unix:")
            yield resolver.path(re.split(r"(?<!,),(?!,)", path, maxsplit=1)[0].replace(",,", ","))
        elif option.name == "chardev":
            pairs = split(option)
            chardevs[pairs.get("id")] = pairs.get("path")
    for option in options:
        if option.name != "mon" or split(option).get("mode") != "control":
            continue
        socket = chardevs.get(split(option).get("chardev"))
        if socket:
            yield resolver.path(socket)


def incoming_argv(launch: Launch) -> tuple[str, ...]:
    """Return the command line that starts the guest paused, waiting for `migrate-incoming`."""
    return (*launch.argv, "-incoming", "defer", "-S")


def paused_argv(launch: Launch) -> tuple[str, ...]:
    """Return the command line that starts the guest paused, ready to run."""
    return (*launch.argv, "-S")


def guest_name(argv: Iterable[str]) -> str | None:
    """Return the name that -name gives. Raises CommandLineError."""
    names = [split(option).get("guest") for option in parse(argv) if option.name == "name"]
    return names[-1] if names else None


def taps(found: Iterable[Option]) -> tuple[Tap, ...]:
    """Return the interfaces that must exist before the start: those that no script of QEMU plugs in.

    Their bridges are unknown to QEMU, and empty here.
    """
    return tuple(
        Tap(interface, "")
        for option in found
        if option.name in {"net", "netdev", "nic"}
        for pairs in (split(option),)
        if pairs.get("type") == "tap" and pairs.get("script") in {"no", ""}
        for interface in (pairs.get("ifname"),)
        if interface
    )


def _inherited(found: Iterable[Option], macvtaps: Iterable[Tap]) -> Iterator[Tap]:
    """Yield the macvtaps that a command line still takes: whoever starts the guest has to open them."""
    used = set(map(opened_macvtap, found))
    return (tap for tap in macvtaps if tap.macvtap is not None and str(tap.macvtap.descriptor) in used)


def vnc_ports(launch: Launch) -> tuple[int, ...]:
    """Return the TCP ports at which the guest's VNC server will listen, as far as they are fixed."""
    displays = (_vnc_display(option) for option in options.parse(launch.argv[1:]))
    return tuple(_VNC_BASE + display for display in displays if display is not None)


def move_vnc(launch: Launch, taken: frozenset[int]) -> Launch:
    """Return the launch with every VNC display moved to the next one whose port is not in `taken`."""
    moved = []
    for option in options.parse(launch.argv[1:]):
        display = _vnc_display(option)
        if display is None or _VNC_BASE + display not in taken:
            moved.append(option)
            continue
        free = next(number for number in range(display, 1 << 16) if _VNC_BASE + number not in taken)
        prefix = "vnc=" if option.name == "display" else ""
        value = (option.value or "").removeprefix(prefix)
        moved.append(replace(option, value=prefix + _VNC_DISPLAY.sub(rf"\g<host>:{free}", value, count=1)))
    return replace(launch, argv=(*launch.argv[:1], *options.render(moved)))


def _vnc_display(option: Option) -> int | None:
    value = option.value or ""
    if option.name == "display" and value.startswith("vnc="):
        value = value.removeprefix("vnc=")
    elif option.name != "vnc":
        return None
    pairs = properties.parse(value)
    match = _VNC_DISPLAY.match(value)
    if match is None or pairs.get("to") is not None or any(pair.key == "reverse" for pair in pairs.pairs):
        return None
    return int(match["display"])


def _put(option: Option, values: Mapping[str, str]) -> Option:
    if not values:
        return option
    if "" in values:
        return replace(option, value=values[""])
    pairs = split(option)
    for key, value in values.items():
        pairs = pairs.put(key, value)
    return join(option, pairs)


def _machine(found: list[Option], canonical: str) -> list[Option]:
    """Name the canonical machine type: in the options that name one, else in front."""
    typed = [option.name in _MACHINE and split(option).get("type") is not None for option in found]
    if not any(typed):
        return [Option("machine", canonical), *found]
    return [
        join(option, split(option).put("type", canonical)) if is_typed else option
        for option, is_typed in zip(found, typed, strict=True)
    ]


def _accelerator(found: list[Option], accelerator: str) -> Iterator[Option]:
    """Name the one accelerator in use: a list of several could end with another one on the other host."""
    named = False
    for option in found:
        if option.name in _MACHINE and split(option).get("accel") is not None:
            named = True
            yield join(option, split(option).put("accel", accelerator))
        elif option.name == "accel":
            matches = split(option).get("accel") == accelerator
            if matches and not named:
                yield option
            named = named or matches
        elif option.name == "enable-kvm":
            named = True
            yield option
        else:
            yield option
    if not named:
        yield Option("accel", accelerator)


def _display(found: Iterable[Option]) -> Iterator[Option]:
    """Replace what needs somebody's screen: a window cannot follow its guest to another host."""
    shown = False
    for option in found:
        shown = shown or option.name in _DISPLAYS
        kind = split(option).get("type") if option.name == "display" else None
        if option.name in {"sdl", "curses"} or kind in _WINDOWS:
            yield Option("display", "none")
        elif option.name != "full-screen":
            yield option
    if not shown:
        # QEMU's own choice where it finds no screen (system/vl.c); the next free port is taken.
        yield Option("vnc", "localhost:0,to=99")
