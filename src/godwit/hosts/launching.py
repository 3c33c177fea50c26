"""Starting a QEMU on a host so that nothing of ours can end it, and ending one with proof."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from godwit.core.upgrading import STREAM, TAKER
from godwit.errors import (
    GodwitError,
    HostError,
    HypervisorError,
    QemuDiedError,
    QemuMissingError,
)
from godwit.hosts.functions import HOLDS
from godwit.hosts.processes import processes_of, scan
from godwit.hosts.shell import number_in, run_script, words_of
from godwit.network.tap import UNPLUG, held_descriptors
from godwit.plaintext import one_line

if TYPE_CHECKING:
    from godwit.hosts.processes import QemuProcess
    from godwit.hosts.transport import Transport
    from godwit.model import Launch, Vm

LAUNCH_DEADLINE: Final = 20.0
"""Seconds that QEMU may take from its start until its monitor answers."""

END_DEADLINE: Final = 8.0
"""Seconds that a killed QEMU may take to end: longer than writing back what a slow disk still owes rarely takes."""

NO_FOLDER: Final = 3
"""The status with which FOLDERS says that one cannot be made."""

FOLDERS: Final = r"""
count=$1
shift
umask 077
while [ "$count" -gt 0 ]; do
    mkdir -p -- "$1" || exit 3
    shift
    count=$((count - 1))
done
"""
"""$1 says how many folders follow; what comes after them goes to PLUG."""

_LAUNCH: Final = r"""
control=$1 log=$2 name=$3 folder=$4 daemonizes=$5 deadline=$6 shown=$7 macvtaps=$8
shift 8
# What this QEMU makes, its log and its monitors before all, is its user's alone.
umask 077
fail() { echo "$1"; exit 1; }
cd -- "$folder" 2>/dev/null || fail "no-folder"
command -v -- "$1" >/dev/null 2>&1 || fail "missing"
if [ -z "$log" ]; then
    place=$(runtime) && mkdir -p -- "$place/log" || fail "no-log"
    log=$place/log/$name.log
fi
mkdir -p -- "$(dirname -- "$log")" 2>/dev/null
{ printf '%s godwit starts: %s\n' "$(date -u +%FT%TZ)" "$shown" >> "$log"; } 2>/dev/null || fail "no-log $log"
start=$(($(stat -c %s -- "$log") + 1))
died() {
    echo "died $1"
    tail -c "+$start" -- "$log" | tail -n 20
    exit 1
}
for one in $macvtaps; do
    tap=${one#*=}
    numbers=$(cat "/sys/class/net/$tap/macvtap/"tap*/dev 2>/dev/null) || fail "no-node $tap it is not in /sys"
    node=/dev/tap$(cat "/sys/class/net/$tap/ifindex")
    made=
    # Its node may be missing, or another's: that of another network namespace has the same name.
    if [ "$(stat -c %t:%T -- "$node" 2>/dev/null)" != "$(printf %x:%x "${numbers%:*}" "${numbers#*:}")" ]; then
        made=/dev/godwit-$tap node=/dev/godwit-$tap
        rm -f -- "$made"
        said=$(mknod -m 600 -- "$made" c "${numbers%:*}" "${numbers#*:}" 2>&1) || fail "no-node $tap $said"
    fi
    said=$( (: <> "$node") 2>&1) || fail "no-node $tap $said"
    eval "exec ${one%%=*}<> \"\$node\""
    [ -z "$made" ] || rm -f -- "$made"
done
if [ "$daemonizes" = yes ]; then
    "$@" < /dev/null >> "$log" 2>&1 || died $?
    echo "started 0"
    exit 0
fi
rm -f -- "$control"
if command -v setsid > /dev/null 2>&1; then
    setsid "$@" < /dev/null >> "$log" 2>&1 &
else
    "$@" < /dev/null >> "$log" 2>&1 &
fi
pid=$!
# No event tells a shell that a socket came into being: look every 10 ms, and at the process as well.
left=$((deadline * 100))
until [ -S "$control" ]; do
    if ! kill -0 "$pid" 2>/dev/null; then
        wait "$pid"
        died $?
    fi
    [ $left -gt 0 ] || { echo "silent $pid"; exit 1; }
    left=$((left - 1))
    sleep 0.01
done
echo "started $pid"
"""

_LAST_WORDS: Final = r"""
log=$1 name=$2
if [ -z "$log" ]; then place=$(runtime) && log=$place/log/$name.log; fi
tac -- "$log" 2>/dev/null | sed '/ godwit starts: /q' | tac | tail -n +2 | tail -n 20
"""

_END: Final = r"""
deadline=$1
shift
alive() {
    { read -r stat < "/proc/$1/stat"; } 2>/dev/null || return 1
    began=$2
    set -- ${stat##*) }
    state=$1
    # A zombie executes nothing, holds nothing any more and only waits for its parent: it has ended.
    case $state in Z | X | x) return 1 ;; esac
    [ "${20}" = "$began" ]
}
# No event tells a shell that a process ended which is not its child: look every 10 ms.
left=$((deadline * 100))
while [ $# -ge 2 ]; do
    if alive "$1" "$2" && ! said=$(kill -KILL "$1" 2>&1) && alive "$1" "$2"; then
        echo "refused $1 $said"
        exit 1
    fi
    while alive "$1" "$2"; do
        [ $left -gt 0 ] || { echo "remains $1 $state"; exit 1; }
        left=$((left - 1))
        sleep 0.01
    done
    shift 2
done
"""
"""$1 is the deadline in seconds, then pid and start time of each process. Only a process with both is killed."""

_CLEAN: Final = r"""
pidfile=$1 count=$2
shift 2
while [ "$count" -gt 0 ]; do
    if [ -S "$1" ]; then rm -f -- "$1" || exit 1; fi
    shift
    count=$((count - 1))
done
if [ -f "$pidfile" ] && [ "$(stat -c %s -- "$pidfile")" -le 32 ]; then rm -f -- "$pidfile" || exit 1; fi
"""
"""$1 is the pidfile, $2 how many sockets follow; what comes after them goes to UNPLUG. Nothing that is no socket, or
too long for a process number, is removed."""

_TROUBLES: Final = (
    (
        r"Failed to get \"\w+\" lock|Is another process using the image",
        "another QEMU has this disk open; see with lsof",
    ),
    (r"Could not open '[^']*': No such file", "see whether the storage is mounted on this host at the same place"),
    (
        r"could not (open|load) (kernel|initrd)",
        "the guest's kernel and initrd must lie at the same place on this host: copy them, or mount the storage",
    ),
    (r"Could not open '[^']*': Permission denied", "see who may read and write the disk on this host"),
    (
        r"/dev/net/tun \(.*busy|Device or resource busy.*tap",
        "another guest has this tap open: end it or rename the tap",
    ),
    (r"/dev/net/tun|bridge helper|could not configure .*tap|network script", "see the tap and its bridge on this host"),
    (
        r"Address already in use|Failed to find an available port",
        "a port or socket is taken: see with ss -ltnp, then retry",
    ),
    (r"Cannot assign requested address", "the address to listen at is not this host's; see its --migration-address"),
    (r"Could not access KVM|failed to initialize kvm", "KVM cannot be used here: godwit host check says why"),
    (r"[Uu]nsupported machine|No machine specified", "this QEMU lacks the guest's machine type: install a newer one"),
    (
        r"Cannot allocate memory|cannot set up guest memory",
        "the host's memory does not suffice: free some, or take another",
    ),
    (
        r"unable to find CPU model|requested features|CPU model .* not found",
        "give the guest a CPU model that both hosts have",
    ),
    (
        r"is not a valid device model|'.*' is not a valid",
        "this QEMU is built without a device of the guest: install another",
    ),
)


async def start(transport: Transport, vm: Vm, launch: Launch, *, awaited: str = "") -> int:
    """Start QEMU detached; return its pid, or 0 where it daemonizes itself, once its control socket exists.

    `awaited` is another socket to wait for. Its output goes to the guest's log. Raises QemuMissingError, QemuDiedError,
    HypervisorError, and HostError for a macvtap that cannot be opened.
    """
    daemonizes = any(argument in {"-daemonize", "--daemonize"} for argument in launch.argv)
    completed = await run_script(
        transport,
        _LAUNCH,
        awaited or vm.control,
        vm.log or "",
        _log_name(vm),
        launch.working_directory,
        "yes" if daemonizes else "no",
        f"{LAUNCH_DEADLINE:.0f}",
        one_line(shlex.join(launch.argv)),
        held_descriptors(launch.taps),
        *launch.argv,
        deadline=LAUNCH_DEADLINE + 5,
        check=False,
    )
    said = completed.stdout.decode(errors="replace")
    word, _, rest = said.partition(" ")
    if completed.status == 0 and word == "started":
        return number_in(rest.encode(), f"the process of {vm.name} on {transport.where}")
    if word == "no-node":
        tap, _, words = rest.strip().partition(" ")
        message = f"{transport.where} cannot open the macvtap {tap} for {vm.name}: {words or 'nothing said'}"
        raise HostError(message, remedy="log in as root: only root may open it, or make its node in /dev")
    raise _launch_error(transport.where, vm, launch, said.strip() or words_of(completed))


def _launch_error(where: str, vm: Vm, launch: Launch, said: str) -> GodwitError:
    word, _, rest = said.partition(" ")
    if word == "missing":
        message = f"{where} has no {launch.argv[0]}, which {vm.name} needs"
        return QemuMissingError(message, remedy="install it on the host: the package qemu-system-x86, or the like")
    if word == "no-folder":
        message = f"{where} has no folder {launch.working_directory}, in which {vm.name} is to be started"
        return HypervisorError(message, remedy="make it, or mount the storage that holds it")
    if word == "no-log":
        return HypervisorError(
            f"{where} cannot write the log of {vm.name} {rest}".rstrip(), remedy="see the folder's rights"
        )
    if word == "died":
        status, _, words = rest.partition("\n")
        return died(where, vm, words, f"with status {status} ")
    if word == "silent":
        message = (
            f"the QEMU of {vm.name} on {where} (pid {rest}) made no monitor at {vm.control} in {LAUNCH_DEADLINE:g} s"
        )
        return HypervisorError(message, remedy="see whether the host is overloaded; godwit ends this process")
    return HostError(f"{vm.name} could not be started on {where}: {said}")


def died(where: str, vm: Vm, words: str, status: str = "") -> QemuDiedError:
    """Make the error of a QEMU that ended, with its last words and what usually mends them."""
    words = words.strip()
    remedy = next((mend for pattern, mend in _TROUBLES if re.search(pattern, words)), "")
    message = f"the QEMU of {vm.name} on {where} ended {status}at its start: {words or 'it said nothing'}"
    return QemuDiedError(message, remedy=remedy)


async def last_words(transport: Transport, vm: Vm) -> str:
    """Return what the guest's QEMU last wrote to its log since its last start."""
    completed = await run_script(transport, _LAST_WORDS, vm.log or "", _log_name(vm), check=False)
    return completed.stdout.decode(errors="replace").strip()


def _log_name(vm: Vm) -> str:
    """Return a file name for the guest: whatever the name holds, it stays one file in its folder."""
    return quote(vm.name, safe=" ")


async def running(transport: Transport, vm: Vm) -> tuple[QemuProcess, ...]:
    """Return the guest's processes on the host, oldest first; an empty answer is a proof of absence."""
    return processes_of(vm, await scan(transport, socket=vm.control, name=vm.name, pidfile=vm.pidfile))


async def end(transport: Transport, vm: Vm) -> bool:
    """Kill the guest's QEMU, wait for the proof of its end, and remove its taps, sockets and pidfile.

    Returns whether PCI functions of the host are left that it had. Raises HostError when the proof cannot be had.
    """
    processes = await running(transport, vm)
    if processes:
        await _kill(transport, vm, processes)
        left = await running(transport, vm)
        if left:
            message = f"{vm.name} runs on {transport.where} still, or again: {_pids(left)}"
            raise HostError(message, remedy="something on the host restarts it: stop that first")
    sockets = [path for path in (vm.control, vm.observe, vm.console) if path]
    if vm.sibling:
        sockets += stream_sockets(vm)
    taps = [tap.interface for tap in vm.launch.taps]
    cleaned = await run_script(
        transport,
        _CLEAN + UNPLUG + HOLDS,
        vm.pidfile or "",
        str(len(sockets)),
        *sockets,
        *taps,
        private={"owner": vm.name},
    )
    return bool(cleaned.stdout.strip())


def stream_sockets(vm: Vm) -> list[str]:
    """Return the sockets at which this process may have waited for its sibling's stream; see godwit.core.upgrading."""
    return [f"{vm.control}{suffix}" for suffix in (STREAM, TAKER, f"{TAKER}-main")]


async def _kill(transport: Transport, vm: Vm, processes: tuple[QemuProcess, ...]) -> None:
    named = [word for process in processes for word in (str(process.pid), str(process.started))]
    completed = await run_script(transport, _END, f"{END_DEADLINE:.0f}", *named, deadline=END_DEADLINE + 5, check=False)
    if completed.status == 0:
        return
    word, _, rest = completed.stdout.decode(errors="replace").strip().partition(" ")
    pid, _, detail = rest.partition(" ")
    if word == "refused":
        message = f"{transport.where} lets us not end pid {pid} of {vm.name}: {detail}"
        raise HostError(message, remedy="log in as root, or as the user that runs the guest")
    if word == "remains":
        what = f"pid {pid} of {vm.name} on {transport.where}"
        message = f"{what} was killed and has not ended in {END_DEADLINE:g} s (state {detail})"
        raise HostError(
            message, remedy="it hangs in the kernel, mostly on storage that does not answer: mend that, then retry"
        )
    message = f"{vm.name} could not be ended on {transport.where}: {words_of(completed)}"
    raise HostError(message)


def _pids(processes: tuple[QemuProcess, ...]) -> str:
    return ", ".join(f"pid {process.pid}" for process in processes)
