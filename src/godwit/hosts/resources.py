"""Reads what a host has for guests beside memory, disks and bridges. Pure: text in, values out.

These answers serve warnings and single checks of preflight: one that cannot be read counts as not known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.model import CpuModel, HostResources, HugeMount, HugePages, ListenerFacts
from godwit.plaintext import from_json, shortened
from godwit.units import KIB, parse_numbers, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LIST: Final = r"""
section huge-pages
for folder in /sys/kernel/mm/hugepages/hugepages-*kB; do
    [ -d "$folder" ] || continue
    size=${folder##*-}
    echo "${size%kB}" $(cat "$folder/free_hugepages" "$folder/resv_hugepages" \
        "$folder/nr_overcommit_hugepages" "$folder/surplus_hugepages" "$folder/nr_hugepages" 2>/dev/null)
done
section huge-mounts; grep ' hugetlbfs ' /proc/mounts
section nodes; cat /sys/devices/system/node/online 2>/dev/null
section cpus; cat /sys/devices/system/cpu/online 2>/dev/null
section limits; echo "$(ulimit -l 2>/dev/null) $(ulimit -S -n) $(ulimit -H -n)"
section capabilities; grep CapEff: /proc/self/status
section listening; ss -Hltn 2>/dev/null | head -n 4096
section confinement
[ "$(cat /sys/fs/selinux/enforce 2>/dev/null)" = 1 ] && echo SELinux
grep -E '(qemu|kvm|libvirt).* \(enforce\)' /sys/kernel/security/apparmor/profiles 2>/dev/null | head -n 8
section denials
date +%s
{ dmesg 2>/dev/null | tail -n 4096; tail -c 262144 /var/log/audit/audit.log 2>/dev/null; } |
    grep -E '(apparmor="DENIED"|avc: +denied).*(qemu|libvirt|svirt)' | tail -n 8
section bridged-firewall
tracked=$(cat /proc/sys/net/netfilter/nf_conntrack_count 2>/dev/null)
[ "${tracked:-0}" != 0 ] && cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null
"""
"""A part of the facts script: it needs the function `section`.

The kernel tracks connections only where a rule asks for it, so some that are tracked mean a stateful firewall."""

_FIELDS: Final = 5
_LOCK_CAPABILITY: Final = 14
"""CAP_IPC_LOCK: who has it may lock as much memory as there is; see capabilities(7)."""
_LOCAL: Final = 3
_LISTENERS: Final = 4096
_EVERY_ADDRESS: Final = frozenset({"*", "0.0.0.0", "[::]", "::"})  # noqa: S104 - nothing is bound here
_MODELS: Final = 1024
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_PORT: Final = re.compile(r"^(?P<address>.*):(?P<port>[0-9]{1,5})$")
_FLAG: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_PAGE_SIZE: Final = re.compile(r"\bpagesize=(\d{1,9}[KMG])")
_STAMP: Final = re.compile(r"audit\(([0-9]{1,12})\.")
_LATELY: Final = 86400
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_SHOWN: Final = 120


def parse_resources(said: Mapping[str, str]) -> HostResources:
    """Put together what the sections of `LIST` say."""
    limits = said.get("limits", "").split()
    locked, soft, hard = (*limits, "", "", "")[:3]
    bounded = not _may_lock(said.get("capabilities", ""))
    kibibytes = _number(locked) if bounded else None
    return HostResources(
        huge_pages=tuple(_huge_pages(said.get("huge-pages", ""))),
        huge_mounts=tuple(_huge_mounts(said.get("huge-mounts", ""))),
        huge_default=_default_page(said.get("meminfo", "")),
        nodes=_numbers(said.get("nodes", "")),
        cpus=_numbers(said.get("cpus", "")),
        locked_memory=None if kibibytes is None else kibibytes * KIB,
        open_files=_number(soft),
        open_files_hard=_number(hard),
        listeners=tuple(_listeners(said.get("listening", ""))),
        confinement=tuple(
            shortened(line.strip(), _SHOWN) for line in said.get("confinement", "").splitlines()[:9] if line.strip()
        ),
        denials=tuple(_denials(said.get("denials", ""))),
        tracks_bridged=said.get("bridged-firewall", "").strip() == "1",
    )


def parse_models(text: str) -> tuple[CpuModel, ...]:
    """Read QEMU's reply to query-cpu-definitions; what is no such reply tells of no model."""
    try:
        reply = from_json(text or "{}")
    except ValueError:
        return ()
    rows = reply.get("return") if isinstance(reply, dict) else None
    return tuple(_models(rows[:_MODELS] if isinstance(rows, list) else []))


def _models(rows: list[object]) -> Iterator[CpuModel]:
    """Yield the models; one of which QEMU does not say what it lacks may lack anything, and is left out."""
    for row in rows:
        name, lacks = (row.get("name"), row.get("unavailable-features")) if isinstance(row, dict) else (None, None)
        if isinstance(name, str) and _FLAG.fullmatch(name) and isinstance(lacks, list):
            yield CpuModel(name, frozenset(one for one in lacks if isinstance(one, str) and _FLAG.fullmatch(one)))


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _numbers(text: str) -> frozenset[int]:
    try:
        return parse_numbers(text)
    except ValueError:
        return frozenset()


def _denials(text: str) -> Iterator[str]:
    """Yield lines of the kernel's log that are of the last day: first comes what its clock shows now."""
    clock, _, lines = text.partition("\n")
    now = _number(clock.strip())
    for line in lines.splitlines():
        stamp = _STAMP.search(line)
        if now is not None and stamp is not None and now - int(stamp[1]) < _LATELY:
            yield shortened(line[stamp.start() :].partition("): ")[2].strip(), 2 * _SHOWN)


def _huge_pages(text: str) -> Iterator[HugePages]:
    """Read lines of a size in KiB, and of pages: free, reserved of these, permitted beyond, in use of these; all."""
    for line in text.splitlines():
        numbers = [_number(word) for word in line.split()]
        if len(numbers) not in {_FIELDS, _FIELDS + 1} or None in numbers:
            continue
        size, free, reserved, beyond, used, *both = (number or 0 for number in numbers)
        pool = max(0, both[0] - used) if both else None
        yield HugePages(size * KIB, max(0, free - reserved) + max(0, beyond - used), pool)


def _huge_mounts(text: str) -> Iterator[HugeMount]:
    """Read lines of /proc/mounts; see proc(5) for how it writes blanks."""
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) > _LOCAL and words[2] == "hugetlbfs":
            size = _PAGE_SIZE.search(words[3])
            path = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), words[1])
            yield HugeMount(path, parse_size(size[1]) if size else 0)


def _default_page(meminfo: str) -> int:
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        if key == "Hugepagesize":
            return (_number(value.split()[0] if value.split() else "") or 0) * KIB
    return 0


def _may_lock(status: str) -> bool:
    digits = status.rpartition(":")[2].strip()
    return bool(re.fullmatch(r"[0-9a-f]{1,16}", digits)) and bool(int(digits, 16) >> _LOCK_CAPABILITY & 1)


def _listeners(text: str) -> Iterator[ListenerFacts]:
    """Read `ss -Hltn`; an address may have its interface behind it."""
    for line in text.splitlines()[:_LISTENERS]:
        words = line.split()
        match = _PORT.match(words[_LOCAL]) if len(words) > _LOCAL else None
        if match is not None and 0 < int(match["port"]) < 1 << 16:
            address = match["address"].partition("%")[0]
            yield ListenerFacts("" if address in _EVERY_ADDRESS else address.strip("[]"), int(match["port"]))
