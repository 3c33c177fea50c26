"""Which QEMU on a host waits for a stream at an address, and which QMP sockets its command line gives it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.hosts import processes
from godwit.hosts.shell import run_script
from godwit.model import WaitingQemu
from godwit.qemu.commandline import parse, qmp_sockets
from godwit.qemu.options import CommandLineError

if TYPE_CHECKING:
    from godwit.hosts.processes import QemuProcess
    from godwit.hosts.transport import Transport
    from godwit.qemu.process import ProcessFacts

_AT_PORT: Final = (
    processes.DESCRIBE
    + r"""
seen=$(ss -tlnpH "sport = :$1") || exit 1
[ -z "$seen" ] || echo "file|"
for pid in $(printf '%s\n' "$seen" | grep -o 'pid=[0-9]*' | tr -dc '0-9\n' | sort -un); do
    describe "$pid"
done
echo 'end|'
"""
)
"""$1 is a TCP port. A line `file|` says that somebody listens there, seen or not."""

_UNSEEN: Final = "log in to the host as root, or as the user that runs the guest; or name its QMP socket"
_REMEDY: Final = "start the target with -incoming, or name its QMP socket"


async def waiting_at(transport: Transport, uri: str) -> WaitingQemu:
    """Return the QEMU that listens at the port of `tcp:HOST:PORT`, or at the socket of `unix:PATH`.

    Raises InputError where nobody listens there, where it is no QEMU, cannot be seen, or has no QMP socket.
    """
    kind, _, rest = uri.partition(":")
    if kind == "unix":
        process = await processes.find_qemu(transport, rest)
    elif kind == "tcp" and rest.rpartition(":")[2].isdigit():
        process = await _at_port(transport, int(rest.rpartition(":")[2]))
    else:
        message = f"{uri} names no port and no socket at which a QEMU could wait"
        raise InputError(message)
    return _described(await processes.read_process(transport, process), f"{uri} on {transport.where}")


async def _at_port(transport: Transport, port: int) -> QemuProcess:
    completed = await run_script(transport, _AT_PORT, str(port))
    seen = processes.parse_scan(os.fsdecode(completed.stdout), "")
    where = f"TCP port {port} of {transport.where}"
    if not seen.is_file:
        message = f"nobody listens at {where}"
        raise InputError(message, remedy=_REMEDY)
    if not seen.processes:
        message = f"who listens at {where} cannot be seen"
        raise InputError(message, remedy=_UNSEEN)
    process = seen.processes[0]
    if len(seen.processes) > 1 or not processes.is_qemu(process):
        names = ", ".join(f"{one.argv[0] if one.argv else '?'} (pid {one.pid})" for one in seen.processes)
        message = f"{where} is served by {names}, which is not one QEMU"
        raise InputError(message, remedy=_REMEDY)
    return process


def _described(process: ProcessFacts, where: str) -> WaitingQemu:
    try:
        found = parse(process.argv)
        sockets = tuple(qmp_sockets(process, found))
    except CommandLineError as error:
        message = f"the command line of the QEMU at {where} cannot be read: {error}"
        raise InputError(message, remedy="name its QMP socket") from error
    return WaitingQemu(process.pid, sockets, stays_stopped=any(option.name == "S" for option in found))
