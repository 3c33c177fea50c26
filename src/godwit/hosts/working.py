"""What guests take of a plain host: counters of /proc and /sys, those of many guests in one look.

A look costs the host a shell and one `grep`, whatever the number of guests; see schedstat in the kernel's documentation
(Documentation/scheduler/sched-stats), and stat and io in proc(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import HostError
from godwit.hosts.processes import DESCRIBE, parse_scan, processes_of
from godwit.hosts.shell import run_script
from godwit.model import GuestWork, HostWork, ThreadWork

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from godwit.hosts.transport import Transport
    from godwit.model import Vm

_FIND: Final = (
    DESCRIBE
    + r"""
for file in $(grep -lE 'qemu|kvm' /proc/[0-9]*/cmdline 2>/dev/null); do
    pid=${file#/proc/}
    describe "${pid%/cmdline}"
done
"""
)

_READ: Final = r"""
pids=$1; shift
for name do
    shift
    set -- "$@" "/sys/class/net/$name/statistics/rx_bytes" "/sys/class/net/$name/statistics/tx_bytes"
done
for pid in $pids; do set -- "$@" "/proc/$pid/stat" "/proc/$pid/io" "/proc/$pid"/task/[0-9]*/schedstat; done
getconf CLK_TCK
date +%s.%N
grep -Hs '' "$@" || :
"""

MOST: Final = 64
"""How many guests of a host are looked at: on a host with more, those whose names come first."""

_USER, _SYSTEM, _STARTED = 11, 12, 19
"""Fields of `stat`, counted from the state, which follows the name: ticks in user and kernel mode, and the start."""

_NANO: Final = 1e-9
_TASK_PARTS: Final = 6
_STORAGE: Final = ("read_bytes", "write_bytes")


class CountsWork:
    """The part of a plain host that counts what guests take; see `godwit.ports.Host`."""

    _transport: Transport
    _found: tuple[frozenset[tuple[str, str]], dict[str, tuple[int, int]]] | None = None

    async def work(self, vms: Sequence[Vm]) -> HostWork:
        """Read what these guests have taken; looks for their processes first where they are not those of last time.

        One that was not running then is missed until another has ended, or none of them runs.
        """
        vms = sorted(vms, key=lambda vm: vm.name)[:MOST]
        asked = frozenset((vm.name, vm.control) for vm in vms)
        if self._found is None or asked != self._found[0] or not self._found[1]:
            self._found = asked, await self._find(vms)
        known = self._found[1]
        taps = {vm.name: tuple(tap.interface for tap in vm.launch.taps) for vm in vms if vm.name in known}
        pids = " ".join(str(pid) for pid, _ in known.values())
        interfaces = sorted({name for names in taps.values() for name in names if name and "/" not in name})
        completed = await run_script(self._transport, _READ, pids, *interfaces)
        try:
            work = parse(completed.stdout.decode(errors="replace"), known, taps)
        except (ValueError, IndexError) as error:
            message = f"what guests take on {self._transport.where} cannot be read: {error}"
            raise HostError(message) from None
        if len(work.guests) < len(known):  # one has ended, or was started anew
            self._found = None
        return work

    async def _find(self, vms: Sequence[Vm]) -> dict[str, tuple[int, int]]:
        """Return process and start of each guest that runs here."""
        completed = await run_script(self._transport, _FIND)
        seen = parse_scan(completed.stdout.decode(errors="surrogateescape"), "")
        found = {vm.name: processes_of(vm, seen) for vm in vms}
        return {name: (ours[-1].pid, ours[-1].started) for name, ours in found.items() if ours}


def parse(text: str, known: Mapping[str, tuple[int, int]], taps: Mapping[str, Sequence[str]]) -> HostWork:
    """Read what the script prints: ticks a second, the time of day, and each file's lines after its name.

    Processes that are not those `known` by pid and start are left out. Raises ValueError, IndexError.
    """
    ticks, now, *lines = text.splitlines()
    said: dict[str, list[str]] = {}
    for line in lines:
        path, _, rest = line.partition(":")
        said.setdefault(path, []).append(rest)
    threads: dict[int, list[ThreadWork]] = {}
    for path, rows in said.items():
        parts = path.split("/")
        if len(parts) == _TASK_PARTS and parts[-1] == "schedstat":
            ran, waited, _ = rows[0].split()
            threads.setdefault(int(parts[2]), []).append(
                ThreadWork(int(parts[4]), int(ran) * _NANO, int(waited) * _NANO)
            )
    guests = []
    for name, (pid, started) in known.items():
        stat = "\n".join(said.get(f"/proc/{pid}/stat", ()))
        fields = stat[stat.rfind(")") + 1 :].split()
        if len(fields) <= _STARTED or int(fields[_STARTED]) != started:
            continue
        counted = sorted(threads.get(pid, ()), key=lambda one: one.id)
        if not any(one.ran for one in counted):  # a kernel that keeps no such statistics
            counted = [ThreadWork(0, (int(fields[_USER]) + int(fields[_SYSTEM])) / int(ticks), None)]
        disk = _storage(said.get(f"/proc/{pid}/io", ()))
        guests.append(GuestWork(name, pid, tuple(counted), disk, _network(said, taps.get(name, ()))))
    return HostWork(float(now), tuple(guests))


def _storage(rows: Sequence[str]) -> int | None:
    """Return the bytes that a process moved to and from storage; None where we may not see them."""
    found = dict(_pairs(rows))
    return sum(found[name] for name in _STORAGE) if all(name in found for name in _STORAGE) else None


def _pairs(rows: Sequence[str]) -> Iterator[tuple[str, int]]:
    for row in rows:
        key, _, value = row.partition(":")
        if value.strip().isdecimal():
            yield key, int(value)


def _network(said: Mapping[str, Sequence[str]], interfaces: Sequence[str]) -> int | None:
    """Return the bytes through these taps, both ways; None where there is none to be seen."""
    counted = [
        int(said[path][0])
        for name in interfaces
        for path in (f"/sys/class/net/{name}/statistics/{way}_bytes" for way in ("rx", "tx"))
        if path in said
    ]
    return sum(counted) if counted else None
