"""Checks of what a target permits and has beside memory: huge pages, memory nodes, limits of processes, confinement."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Final

from godwit.core.preflight.rows import found
from godwit.model import Command, HugeMemory, HugePages
from godwit.units import MIB, format_numbers, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import Finding, HostResources

_FILES_TO_SPARE: Final = 64
"""Descriptors that a move itself takes, and its copies of disks: streams, channels of multifd, NBD clients."""

_RAISES_OPEN_FILES: Final = (9, 0, 0)
"""From here on QEMU raises its own limit as far as it may (os_setup_limits)."""


def limit_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what the target has too little of, or permits too little."""
    yield from _huge_pages(e)
    yield from _numa(e)
    yield from _pinning(e)
    yield from _locked_memory(e)
    yield from _open_files(e)
    for what in e.target.resources.confinement:
        yield found(
            "confined",
            e.target.name,
            f"{e.target.name}: {what}",
            f"should QEMU be forbidden something: ausearch -m avc, or dmesg | grep DENIED  (on {e.target.name})",
        )
    if e.target.resources.denials:
        yield found(
            "denied-lately",
            e.target.name,
            f"{e.target.name} has forbidden a QEMU something during the last day: {e.target.resources.denials[-1]}",
            f"see what it was and permit it, if this guest needs it, too: ausearch -m avc, or dmesg | grep DENIED  "
            f"(on {e.target.name})",
        )


def huge_memory(e: Evidence) -> tuple[HugeMemory, ...]:
    """Return the guest's memory that is in huge pages; a path counts if there is such a mount on the source."""
    needs, here = e.guest.needs, e.source.resources
    at_paths = [HugeMemory(one.path, page, one.size) for one in needs.file_memory if (page := _page_at(here, one.path))]
    kernels = [HugeMemory("", one.page or here.huge_default, one.size) for one in needs.huge_memory]
    return (*at_paths, *kernels)


def _page_at(host: HostResources, path: str) -> int:
    """Return the size of the pages at a path, 0 where they are ordinary ones."""
    over = [one for one in host.huge_mounts if path == one.path or path.startswith(f"{one.path.rstrip('/')}/")]
    nearest = max(over, key=lambda one: len(one.path), default=None)
    return 0 if nearest is None else nearest.page or host.huge_default


def _huge_pages(e: Evidence) -> Iterator[Finding]:
    there, wanted = e.target.resources, dict[int, int]()
    for one in huge_memory(e):
        page = _page_at(there, one.path) if one.path else one.page
        if one.path and not page:
            yield found(
                "hugepages",
                one.path,
                f"memory of {e.vm.name} is at {one.path}, pages of {format_size(one.page)} on {e.source.name}; "
                f"{e.target.name} has no hugetlbfs there",
                command=Command(
                    e.target.name,
                    f"mkdir -p {quote(one.path)} && "
                    f"mount -t hugetlbfs -o pagesize={one.page // MIB}M none {quote(one.path)}",
                    f"umount {quote(one.path)}",
                    safe=True,
                ),
            )
        elif page:
            wanted[page] = wanted.get(page, 0) + -(-one.size // page)
    pools = {one.size: one for one in there.huge_pages}
    for page, count in wanted.items():
        pool = pools.get(page, HugePages(page, 0))
        if there.huge_pages and pool.available < count:
            lacking = count - pool.available
            file = f"/sys/kernel/mm/hugepages/hugepages-{page // 1024}kB/nr_hugepages"
            back = "" if pool.pool is None else f"echo {pool.pool} > {file}"
            safe = bool(back) and lacking * page <= e.target.memory_available // 2
            yield found(
                "hugepages",
                e.target.name,
                f"{e.vm.name} needs {count} huge pages of {format_size(page)}, "
                f"{e.target.name} has {pool.available} free",
                command=Command(e.target.name, _more_pages(file, lacking), back, safe=safe),
            )


def _more_pages(file: str, count: int) -> str:
    """Return what lets the kernel keep `count` more huge pages.

    It takes as many as it has memory for, and says nothing of the others: where they are too few, none are taken.
    """
    short = f'echo $had > $f; echo "it has memory for $((got - had)) of {count}" >&2; false'
    more = f"echo $((had + {count})) > $f && got=$(cat $f)"
    return f"f={file}; had=$(cat $f) && {more} && {{ [ $got -ge $((had + {count})) ] || {{ {short}; }}; }}"


def _numa(e: Evidence) -> Iterator[Finding]:
    needs, there = e.guest.needs, e.target.resources
    for what, wanted, present in (
        ("memory nodes", needs.nodes, there.nodes),
        ("processors", needs.cpus, there.cpus),
    ):
        missing = wanted - present
        if present and missing:
            yield found(
                "numa-node",
                e.target.name,
                f"{e.vm.name} is bound to the {what} {format_numbers(wanted)}; {e.target.name} has "
                f"{format_numbers(present)}",
                "start the guest anew without host-nodes, node-affinity and cpu-affinity, or with those of both hosts",
            )


def _pinning(e: Evidence) -> Iterator[Finding]:
    online, used = e.source.resources.cpus, e.guest.needs.runs_on
    if used and online - used:
        yield found(
            "cpu-pinning",
            e.vm.name,
            f"the QEMU of {e.vm.name} runs on processors {format_numbers(used & online)} of {format_numbers(online)} "
            f"on {e.source.name}",
            f"taskset -acp LIST PID, with processors and the process of {e.target.name}, after the move",
        )


def _locked_memory(e: Evidence) -> Iterator[Finding]:
    limit = e.target.resources.locked_memory
    if e.guest.needs.locks_memory and limit is not None and limit < e.guest.memory:
        yield found(
            "memlock",
            e.target.name,
            f"{e.vm.name} has {format_size(e.guest.memory)} locked, Godwit's login on {e.target.name} may lock "
            f"{format_size(limit)}",
            f"let it log in as root, or set memlock to unlimited for it in /etc/security/limits.conf  "
            f"(on {e.target.name})",
        )


def _open_files(e: Evidence) -> Iterator[Finding]:
    there, qemu = e.target.resources, e.target.qemu
    limit = there.open_files_hard if qemu and qemu.version >= _RAISES_OPEN_FILES else there.open_files
    needed = e.guest.needs.open_files
    if needed and limit is not None and limit < needed + _FILES_TO_SPARE:
        yield found(
            "open-files",
            e.target.name,
            f"the QEMU of {e.vm.name} has {needed} files open, on {e.target.name} it may have {limit}",
            f"set nofile to {_rounded(needed + _FILES_TO_SPARE)} for Godwit's login in /etc/security/limits.conf  "
            f"(on {e.target.name})",
        )


def _rounded(number: int) -> int:
    """Return the next power of two: what one writes into a file of limits."""
    return 1 << (number - 1).bit_length()
