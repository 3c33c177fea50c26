"""Processes, network namespaces and what the laboratory needs of the kernel.

A process is known by its pid *and* its start time, since pids are used again. What lives in a namespace is
found by comparing the namespace itself, so even a process that nobody wrote down is found.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NETNS_ROOT: Final = Path("/run/netns")
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_DEADLINE: Final = 20.0
KILL_DEADLINE: Final = 10.0

_PROC: Final = Path("/proc")
_ENVIRONMENT: Final = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
_PROGRAMS: Final = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "flock": "util-linux",
    "mount": "mount",
    "hostname": "hostname",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "sysctl": "procps",
}
_MENDS: Final = (
    ("unknown device type", "load the kernel modules: modprobe -a veth bridge"),
    ("qdisc kind is unknown", "load the kernel module: modprobe sch_tbf"),
    ("unknown filesystem type 'overlay'", "load the kernel module: modprobe overlay"),
    ("not permitted", "run it as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, outside of an unprivileged container"),
    ("no space left", "free some space, or give the laboratory another directory"),
)

NamespaceId = tuple[int, int]
"""Device and inode of a namespace: two processes with the same pair are in the same namespace."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, unmistakably: its pid and its start time in clock ticks since boot."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the identity of the process that has `pid` now; raises LabError if there is none."""
        started = _start_time(pid)
        if started is None:
            message = f"process {pid} has ended"
            raise LabError(message)
        return cls(pid, started)

    def alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        return _start_time(self.pid) == self.start_time


def run(argv: Sequence[str], *, text: str = "", stdin: int | None = None, keep: Sequence[int] = ()) -> str:
    """Run a command of the system to its end and return what it printed.

    `text` goes to its standard input, or `stdin` becomes it; `keep` are descriptors that it inherits.
    Raises LabError with its error output and the mend where that is known.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=text if stdin is None else None,
            stdin=stdin,
            pass_fds=tuple(keep),
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE,
            check=False,
        )
    except FileNotFoundError as error:
        message = f"the laboratory needs {argv[0]}, which is not installed"
        raise LabError(message, remedy=f"apt-get install {_PROGRAMS.get(argv[0], argv[0])}") from error
    except subprocess.TimeoutExpired as error:
        message = f"{' '.join(argv)} did not end within {COMMAND_DEADLINE:.0f} s"
        raise LabError(message) from error
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).strip()
        message = f"{' '.join(argv)} failed with status {done.returncode}: {complaint}"
        raise LabError(message, remedy=_mend(complaint))
    return done.stdout


def check_root() -> None:
    """Raise LabError unless this process is root's."""
    if os.geteuid() != 0:
        message = "a laboratory makes namespaces, bridges and mounts, and that needs root"
        raise LabError(message, remedy="run the same command with sudo")


def check_machine(host_tree: Path | None = None) -> None:
    """Raise LabError, naming what is missing and the mend, unless this machine can carry a laboratory.

    sshd may be missing on the machine if `host_tree` has it.
    """
    check_root()
    for program, package in _PROGRAMS.items():
        provided = host_tree is not None and program == "sshd" and (host_tree / "usr/sbin/sshd").exists()
        if not provided and shutil.which(program, path=SEARCH_PATH) is None:
            message = f"the laboratory needs {program}, which is not installed"
            raise LabError(message, remedy=f"apt-get install {package}")
    if "overlay" not in _filesystems():
        if shutil.which("modprobe", path=SEARCH_PATH) is not None:
            with suppress(LabError):  # judged by the result just below
                run(["modprobe", "overlay"])
        if "overlay" not in _filesystems():
            message = "this kernel has no overlay file system"
            raise LabError(message, remedy="load the kernel module: modprobe overlay")
    if not Path("/dev/net/tun").is_char_device():
        message = "there is no /dev/net/tun, so guests can have no network"
        raise LabError(message, remedy="load the kernel module: modprobe tun")


def namespace_file(name: str) -> Path:
    """Return the path that keeps the network namespace `name` alive."""
    return NETNS_ROOT / name


def namespaces_of_number(number: int) -> list[str]:
    """Return the names of all network namespaces that belong to the laboratory with this number."""
    if not NETNS_ROOT.is_dir():
        return []
    return sorted(path.name for path in NETNS_ROOT.glob(f"gwl{number}-*"))


def remove_namespaces(names: Iterable[str]) -> None:
    """Remove the names of network namespaces, those that exist; the kernel ends each once nobody uses it."""
    present = [name for name in names if namespace_file(name).exists()]
    if present:
        run(["ip", "-batch", "-"], text="".join(f"netns delete {name}\n" for name in present))


def identify_namespaces(names: Iterable[str], inits: Iterable[ProcessId]) -> frozenset[NamespaceId]:
    """Return the network namespaces called `names`, and all namespaces of those `inits` that still run."""
    found: set[NamespaceId] = set()
    for name in names:
        found |= _identify(namespace_file(name))
    for init in inits:
        spaces = frozenset[NamespaceId]().union(*(_identify(_PROC / str(init.pid) / "ns" / k) for k in ("mnt", "pid")))
        if init.alive():  # asked last: the pid was this process's while the lines above ran
            found |= spaces
    return frozenset(found)


def residents(namespaces: frozenset[NamespaceId]) -> list[ProcessId]:
    """Return every process that is in one of `namespaces`, except this one."""
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        started = _start_time(int(entry.name))
        spaces = frozenset[NamespaceId]().union(*(_identify(entry / "ns" / kind) for kind in ("net", "mnt", "pid")))
        if started is not None and spaces & namespaces:
            found.append(ProcessId(int(entry.name), started))
    return found


def kill_residents(namespaces: frozenset[NamespaceId]) -> None:
    """Kill all that is in `namespaces` and wait until it is gone; raises LabError after `KILL_DEADLINE` seconds."""
    deadline = time.monotonic() + KILL_DEADLINE
    while remaining := residents(namespaces):
        if not kill(remaining, deadline):
            message = f"processes that cannot be killed: {', '.join(str(process.pid) for process in remaining)}"
            raise LabError(message, remedy="look for state D in ps; they end when their disk answers")


def kill(processes: Iterable[ProcessId], deadline: float | None = None) -> bool:
    """Send SIGKILL to exactly these processes and wait for their end, until the monotonic `deadline`.

    Returns whether all have ended. A pid that has meanwhile become another process is left alone: the
    descriptor is opened first, and the identity checked after that.
    """
    limit = time.monotonic() + KILL_DEADLINE if deadline is None else deadline
    with ExitStack() as stack:
        waiting = []
        for process in processes:
            try:
                descriptor = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, descriptor)
            if process.alive():
                with suppress(ProcessLookupError):  # it ended by itself between the two lines
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                waiting.append(descriptor)
        poller = select.poll()
        for descriptor in waiting:
            poller.register(descriptor, select.POLLIN)
        left = set(waiting)
        while left and (rest := limit - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(rest * 1000):
                poller.unregister(descriptor)
                left.discard(descriptor)
        return not left


def executable_and_arguments(process: ProcessId) -> tuple[str, tuple[str, ...]] | None:
    """Return the file name of the program that `process` runs and its argv, or None if it ended or hides it."""
    folder = _PROC / str(process.pid)
    try:
        program = (folder / "exe").readlink().name
        arguments = (folder / "cmdline").read_bytes().decode(errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return program, tuple(arguments.rstrip("\0").split("\0"))


def boot_id() -> str:
    """Return the kernel's identifier of this boot: process identities and namespaces are void in the next."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): the command name is in parentheses and may hold any character; the state is the next field,
    # the start time the 20th from there.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _identify(path: Path) -> frozenset[NamespaceId]:
    try:
        seen = path.stat()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or a kernel thread's
        return frozenset()
    return frozenset({(seen.st_dev, seen.st_ino)})


def _filesystems() -> set[str]:
    return {line.split()[-1] for line in (_PROC / "filesystems").read_text().splitlines()}


def _mend(complaint: str) -> str:
    return next((mend for sign, mend in _MENDS if sign in complaint.lower()), "")
