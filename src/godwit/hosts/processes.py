"""Which QEMU process on a host is a given guest's: found from outside, without asking its monitor.

Three traces lead to it: its pidfile, its command line, and the kernel's list of listening sockets. A process that is
stopped, hung or busy is found all the same, which is what makes the answer "there is none" a proof.
"""

from __future__ import annotations

import base64
import binascii
import os
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, InputError, MonitorProtocolError, QemuDiedError
from godwit.hosts.shell import run_script
from godwit.network.tap import held_descriptors
from godwit.plaintext import shortened
from godwit.qemu.process import ProcessFacts
from godwit.units import parse_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from godwit.hosts.transport import Transport
    from godwit.model import Tap, Vm

DESCRIBE: Final = r"""
mine=$(readlink /proc/self/ns/pid)
describe() {
    { read -r stat < "/proc/$1/stat"; } 2>/dev/null || return 0
    space=$(readlink "/proc/$1/ns/pid" 2>/dev/null)
    [ -z "$space" ] || [ "$space" = "$mine" ] || return 0
    words=$(base64 -w0 < "/proc/$1/cmdline" 2>/dev/null) || return 0
    folder=$(readlink "/proc/$1/cwd" 2>/dev/null | base64 -w0)
    echo "process|$1|$stat|$folder|$words"
}
"""
"""Defines a shell function that prints a line about the process $1, for `parse_scan`."""

_SCAN: Final = (
    DESCRIBE
    + r"""
pidfile=$1 socket=$2 name=$3
base=${socket##*/}
candidates=
if [ -n "$pidfile" ] && [ -r "$pidfile" ]; then
    { read -r pid < "$pidfile"; } 2>/dev/null
    case ${pid:-x} in
        *[!0-9]*) ;;
        *) echo "pidfile|$pid"; candidates=$pid ;;
    esac
fi
inode=$(stat -L -c %i -- "$socket" 2>/dev/null)
if [ -S "$socket" ]; then echo "socket|${inode}"; elif [ -e "$socket" ]; then echo "file|"; fi
listeners=$(ss -xlpeH 2>/dev/null | grep -F -e "$base") && echo "$listeners" | while read -r line; do
    echo "listener|$line"
done
found=$(
    {
        grep -lF -e "$base" -e "guest=$name," /proc/[0-9]*/cmdline
        grep -lzFx -e "$name" -e "guest=$name" /proc/[0-9]*/cmdline
    } 2>/dev/null | tr -c '0-9\n' ' '
)
served=$(echo "$listeners" | grep -o 'pid=[0-9]*' | tr -dc '0-9\n')
for pid in $(printf '%s\n' $candidates $found $served | sort -un); do
    [ "$pid" = $$ ] || describe "$pid"
done
echo 'end|'
"""
)

_LISTENER: Final = re.compile(r"^u_\w+\s+LISTEN\s+\d+\s+\d+\s+(?P<path>.*?) \d+\s+\* 0(?P<rest>\s.*)?$")
_USER: Final = re.compile(r"pid=(\d+)")
_INODE: Final = re.compile(r"\bino:(\d+)")
_DETAILS: Final = r"""
pid=$1
shift
[ -d "/proc/$pid" ] || { echo gone; exit 1; }
for one in "$@"; do
    tap=${one#*=}
    numbers=$(cat "/sys/class/net/$tap/macvtap/"tap*/dev 2>/dev/null) || continue
    opened=$(stat -L -c %t:%T -- "/proc/$pid/fd/${one%%=*}" 2>/dev/null)
    [ "$opened" != "$(printf %x:%x "${numbers%:*}" "${numbers#*:}")" ] || echo "macvtap|$tap"
done
echo "folder|$(tr '\0' '\n' < "/proc/$pid/environ" 2>/dev/null | sed -n 's/^PWD=//p' | head -n 1 | base64 -w0)"
set -- "/proc/$pid/fd/"*
echo "descriptors|$#"
echo "cpus|$(grep Cpus_allowed_list: "/proc/$pid/status")"
for file in "$@"; do
    if [ -f "$file" ] || [ -b "$file" ]; then echo "file|$(readlink "$file" | base64 -w0)"; fi
done
"""
"""$1 is the pid; what follows names macvtaps and the descriptors that they may be behind, such as "3=gw-web1-0"."""

_COUNT: Final = re.compile(r"[0-9]{1,9}")
_SHOWN: Final = 200
_STAT_START_TIME: Final = 19
"""Field 22 of /proc/PID/stat, counted from the one after the name: see proc(5)."""


@dataclass(frozen=True, slots=True)
class QemuProcess:
    """One process on a host.

    `started` is its start in clock ticks after boot: together with `pid` it names the process for good.
    `working_directory` is that of now: a QEMU that daemonized itself has "/".
    """

    pid: int
    started: int
    argv: tuple[str, ...]
    working_directory: str
    ended: bool = False
    """It is a zombie: it executes nothing and holds nothing any more."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening UNIX socket: `path` as the server wrote it, `inode` of the file, and who holds it open."""

    path: str
    inode: int | None
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """What a look at a host's processes found for one guest.

    `socket` is the path that was asked for, `inode` that of the socket file, None where there is none; `is_file` says
    that something else has its path.
    """

    socket: str
    processes: tuple[QemuProcess, ...]
    listeners: tuple[Listener, ...]
    pidfile_pid: int | None
    inode: int | None
    is_file: bool


async def scan(transport: Transport, *, socket: str, name: str, pidfile: str | None) -> Scan:
    """Look for processes that may serve `socket` or be called `name`. Raises HostError when the look is incomplete."""
    completed = await run_script(transport, _SCAN, pidfile or "", socket, name or posixpath.basename(socket))
    text = os.fsdecode(completed.stdout)
    if not text.endswith("end|\n"):
        message = f"the list of processes on {transport.where} came back incomplete"
        raise HostError(message)
    return parse_scan(text, socket)


async def read_process(transport: Transport, process: QemuProcess, taps: Sequence[Tap] = ()) -> ProcessFacts:
    """Return what /proc says of a process that `scan` found, which Godwit may have given the macvtaps among `taps`.

    Raises QemuDiedError where it has ended since.
    """
    completed = await run_script(transport, _DETAILS, str(process.pid), *held_descriptors(taps).split(), check=False)
    if completed.status != 0:
        message = f"pid {process.pid} on {transport.where} has ended"
        raise QemuDiedError(message)
    rows = [line.partition("|") for line in completed.stdout.decode(errors="replace").splitlines()]
    folders = [_decode(value).rstrip("\n") for kind, _, value in rows if kind == "folder" and value]
    return ProcessFacts(
        pid=process.pid,
        argv=process.argv,
        cwd=process.working_directory,
        environment={"PWD": folders[0]} if folders else {},
        open_files=tuple(_decode(value).rstrip("\n") for kind, _, value in rows if kind == "file"),
        descriptors=next((int(n) for kind, _, n in rows if kind == "descriptors" and _COUNT.fullmatch(n)), 0),
        cpus=next((_cpus(value) for kind, _, value in rows if kind == "cpus"), frozenset()),
        macvtaps=tuple(tap for tap in taps if ("macvtap", "|", tap.interface) in rows),
    )


def _cpus(line: str) -> frozenset[int]:
    try:
        return parse_numbers(line.rpartition(":")[2])
    except ValueError:  # it serves a note of preflight, and nothing else
        return frozenset()


def parse_scan(text: str, socket: str) -> Scan:
    """Read the scan script's lines, which it wrote about `socket`.

    Raises HostError for a line that cannot be read: a process that is left out would count as proof of its absence.
    """
    try:
        return _parse_scan(text, socket)
    except (ValueError, IndexError) as error:
        message = f"the list of processes cannot be read: {shortened(str(error), _SHOWN)}"
        raise HostError(
            message, remedy="see whether /proc, readlink and base64 of the host are what they are elsewhere"
        ) from None


def _parse_scan(text: str, socket: str) -> Scan:
    processes: list[QemuProcess] = []
    listeners: list[Listener] = []
    pidfile_pid = inode = None
    is_file = False
    for line in text.split("\n"):
        kind, _, rest = line.partition("|")
        if kind == "process":
            processes.append(_parse_process(rest))
        elif kind == "listener":
            listeners.extend(_parse_listener(rest))
        elif kind == "pidfile":
            pidfile_pid = int(rest)
        elif kind == "socket":
            inode = int(rest) if rest else None
        elif kind == "file":
            is_file = True
    return Scan(socket, tuple(processes), tuple(listeners), pidfile_pid, inode, is_file)


def _parse_process(line: str) -> QemuProcess:
    pid, _, rest = line.partition("|")
    # The name in the second field may hold anything, "|" and ")" too: what follows its last ")" is plain.
    stat, folder, words = rest.rsplit("|", 2)
    after = stat[stat.rindex(")") + 1 :].split()
    argv = _decode(words).split("\0")
    return QemuProcess(
        pid=int(pid),
        started=int(after[_STAT_START_TIME]),
        argv=tuple(argv[:-1] if argv[-1] == "" else argv),
        working_directory=_decode(folder).rstrip("\n") or "/",
        ended=after[0] in {"Z", "X", "x"},
    )


def _decode(text: str) -> str:
    try:
        return os.fsdecode(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        message = f"the host's base64 does not encode: {error}"
        raise HostError(message) from None


def _parse_listener(line: str) -> Iterator[Listener]:
    match = _LISTENER.match(line)
    if match is not None:
        rest = match["rest"] or ""
        inode = _INODE.search(rest)
        pids = sorted({int(pid) for pid in _USER.findall(rest)})
        yield Listener(match["path"], int(inode[1]) if inode else None, tuple(pids))


def is_qemu(process: QemuProcess) -> bool:
    """Say whether the process calls itself a QEMU: `sudo qemu-...` and shells that merely mention one do not."""
    program = posixpath.basename(process.argv[0]) if process.argv else ""
    return "qemu" in program or "kvm" in program


def names_socket(process: QemuProcess, socket: str) -> bool:
    """Say whether an option of the command line has the UNIX socket `socket`, written absolutely or relatively."""
    wanted = posixpath.normpath(socket)
    return any(
        posixpath.normpath(posixpath.join(process.working_directory, path)) == wanted
        for path in _socket_paths(process.argv)
    )


def _socket_paths(argv: Iterable[str]) -> Iterator[str]:
    for argument in argv:
        for part in re.split(r"(?<!,),(?!,)", argument):
            for prefix in ("unix:", "path="):
                if part.startswith(prefix):
                    yield part.removeprefix(prefix).replace(",,", ",")


def guest_name(process: QemuProcess) -> str | None:
    """Return the guest's name from `-name NAME` or `-name guest=NAME,...`."""
    for option, value in zip(process.argv, process.argv[1:], strict=False):
        if option in {"-name", "--name"}:
            first, *others = value.split(",")
            named = [part.removeprefix("guest=") for part in (first, *others) if part.startswith("guest=")]
            return named[0] if named else first
    return None


def processes_of(vm: Vm, seen: Scan) -> tuple[QemuProcess, ...]:
    """Return the processes that are this guest, by socket, command line or pidfile; oldest first.

    A pidfile counts only where the process in it carries the guest's name or socket: numbers are used again.
    """
    listening = _listening(seen, vm.control) | (_listening(seen, vm.observe) if vm.observe else set())
    sockets = [socket for socket in (vm.control, vm.observe) if socket]
    ours = [
        process
        for process in seen.processes
        if not process.ended
        and (
            process.pid in listening
            or (is_qemu(process) and any(names_socket(process, socket) for socket in sockets))
            or (process.pid == seen.pidfile_pid and is_qemu(process) and guest_name(process) == vm.name)
        )
    ]
    return tuple(sorted(ours, key=lambda process: process.started))


def namesakes(vm: Vm, seen: Scan) -> tuple[QemuProcess, ...]:
    """Return QEMU processes that carry the guest's name and are neither ours nor the one that we take turns with."""
    ours = processes_of(vm, seen)
    return tuple(
        process
        for process in seen.processes
        if process not in ours
        and not process.ended
        and is_qemu(process)
        and guest_name(process) == vm.name
        and not (vm.sibling and names_socket(process, vm.sibling))
    )


def _listening(seen: Scan, socket: str) -> set[int]:
    """Return who listens at `socket`: under that very path, or under a relative one that is the same file."""
    wanted = posixpath.normpath(socket)
    base = posixpath.basename(wanted)
    return {
        pid
        for listener in seen.listeners
        for pid in listener.pids
        if posixpath.normpath(listener.path) == wanted
        or (
            seen.inode is not None
            and socket == seen.socket
            and listener.inode == seen.inode
            and not listener.path.startswith("/")
            and posixpath.basename(listener.path) == base
        )
    }


async def find_qemu(transport: Transport, socket: str) -> QemuProcess:
    """Return the process that serves the QMP socket at the absolute path `socket`, for a guest that is to be adopted.

    Raises InputError where there is no such socket or not exactly one process serves it, MonitorProtocolError where
    that process is no QEMU.
    """
    if not socket.startswith("/"):
        message = f"{socket!r} is no absolute path; name the QMP socket as /path/on/{transport.where.split()[0]}"
        raise InputError(message, remedy="see with `ss -xl` on the host which sockets there are")
    seen = await scan(transport, socket=socket, name="", pidfile=None)
    if seen.inode is None:
        what = "is no socket" if seen.is_file else "does not exist"
        message = f"{socket} {what} on {transport.where}"
        remedy = "see with `ss -xl` on the host which sockets there are; QEMU needs -qmp unix:PATH,server=on,wait=off"
        raise InputError(message, remedy=remedy)
    listening = _listening(seen, socket)
    serving = [
        process
        for process in seen.processes
        if not process.ended
        and (process.pid in listening or (is_qemu(process) and names_socket(process, socket) and not listening))
    ]
    return _only_qemu(serving, socket, transport.where)


def _only_qemu(serving: list[QemuProcess], socket: str, where: str) -> QemuProcess:
    if not serving:
        message = f"no process that can be seen serves {socket} on {where}"
        remedy = "the socket may be a dead guest's; or log in to the host as root, or as the user that runs the guest"
        raise InputError(message, remedy=remedy)
    if len(serving) > 1:
        message = f"several processes serve {socket} on {where}: {', '.join(str(process.pid) for process in serving)}"
        raise InputError(message, remedy="end the ones that are left over, or name another QMP socket of the guest")
    process = serving[0]
    if not is_qemu(process):
        program = process.argv[0] if process.argv else "a kernel thread"
        message = f"{socket} on {where} is served by {program} (pid {process.pid}), which is no QEMU"
        raise MonitorProtocolError(message, remedy="name the socket of QEMU's -qmp option")
    return process
