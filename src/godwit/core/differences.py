"""What differs between two hosts and matters to guests, and what each difference means for moves either way. Pure.

A guest's own checks say more (`core/preflight`): here nothing is known of guests, so that a meaning names which guests
it concerns, and the code of the finding that they would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core.baseline import X86
from godwit.core.preflight.hosts import CLOCK_TOLERANCE
from godwit.units import format_duration, format_numbers, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from godwit.model import BridgeFacts, HostFacts, StorageFacts

_SHOWN: Final = 12
_NOTICED: Final = 0.02
"""The part by which two hosts' memory may differ without being called another size: firmware takes some of it."""
_OWN: Final = ("/", "/boot", "/efi", "/snap", "/var/snap", "/run")
"""File systems of a host that are its own, whatever the other has at that place."""

_LOCAL: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "vfat", "overlay", "tmpfs"})


@dataclass(frozen=True, slots=True)
class Aspect:
    """One thing that two hosts can differ in: what each says, and what that means for moves onward and back.

    `onward` is from the first to the second host, `back` the other way; both are empty where nothing follows.
    """

    subject: str
    here: str
    there: str
    differs: bool
    onward: str = ""
    back: str = ""


def compare(here: HostFacts, there: HostFacts) -> tuple[Aspect, ...]:
    """Return all aspects, those that differ first."""
    found = [aspect for look in _LOOKS for aspect in look(here, there)]
    return tuple(sorted(found, key=lambda aspect: not aspect.differs))


def _aspect(
    subject: str,
    here: HostFacts,
    there: HostFacts,
    value: Callable[[HostFacts], str],
    means: Callable[[HostFacts, HostFacts], str],
) -> Aspect:
    """Return an aspect whose `value` each host has; `means` says what a move from one to the other finds."""
    left, right = value(here), value(there)
    if left == right:
        return Aspect(subject, left, right, differs=False)
    return Aspect(subject, left, right, differs=True, onward=means(here, there), back=means(there, here))


def _some(words: Iterable[str]) -> str:
    listed = sorted(words)
    return f"{', '.join(listed[:_SHOWN])}{f' and {len(listed) - _SHOWN} more' if len(listed) > _SHOWN else ''}"


# -- the processor -----------------------------------------------------------------------------------------------------


def _processor(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    yield _aspect(
        "architecture",
        here,
        there,
        lambda host: host.architecture,
        _architectures_mean,
    )
    yield _aspect(
        "CPU vendor",
        here,
        there,
        lambda host: host.cpu_vendor,
        lambda _, __: "guests under KVM can fail on what they learnt of their CPU at boot (cpu-vendor)",
    )
    yield _aspect("CPU model", here, there, lambda host: host.cpu_model, lambda _, __: "")
    yield _flags(here, there)
    yield _aspect(
        "NX",
        here,
        there,
        lambda host: "on" if "nx" in host.cpu_flags else "off",
        lambda source, _: (
            "guests under KVM that use it fault at once (nx-differs)"
            if "nx" in source.cpu_flags
            else "guests do not use it after the move either (nx-gained)"
        ),
    )
    yield from _models(here, there)


def _architectures_mean(source: HostFacts, target: HostFacts) -> str:
    if not (X86.fullmatch(source.architecture) and X86.fullmatch(target.architecture)):
        return f"guests are refused on {target.name} (architecture)"
    return f"64-bit guests do not run on {target.name} (guest-bits)" if target.architecture != "x86_64" else ""


def _flags(here: HostFacts, there: HostFacts) -> Aspect:
    def words(one: HostFacts, other: HostFacts) -> str:
        only = one.cpu_flags - other.cpu_flags
        return f"{len(one.cpu_flags)}{f', only here: {_some(only)}' if only else ''}"

    def means(source: HostFacts, target: HostFacts) -> str:
        if not source.cpu_flags - target.cpu_flags:
            return "guests with -cpu host or max find all flags that they had"
        return f"guests with -cpu host or max miss flags on {target.name} and are refused (cpu-flags)"

    differs = here.cpu_flags != there.cpu_flags
    meanings = (means(here, there), means(there, here)) if differs else ("", "")
    return Aspect("CPU flags", words(here, there), words(there, here), differs, *meanings)


def _models(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    """Compare the CPU models by name, of which a guest misses what the source gave and the target cannot."""
    if here.qemu is None or there.qemu is None:
        return
    for accelerator, left, right in (
        ("KVM", here.qemu.kvm_models, there.qemu.kvm_models),
        ("emulation", here.qemu.tcg_models, there.qemu.tcg_models),
    ):
        mine, theirs = ({model.name: model.lacks for model in models} for models in (left, right))
        if not mine or not theirs:
            continue
        lost = [name for name in mine if name not in theirs or theirs[name] - mine[name]]
        gained = [name for name in theirs if name not in mine or mine[name] - theirs[name]]
        yield Aspect(
            f"CPU models, {accelerator}",
            f"{len(mine)}{f', more of: {_some(lost)}' if lost else ''}",
            f"{len(theirs)}{f', more of: {_some(gained)}' if gained else ''}",
            bool(lost or gained),
            f"guests with {_some(lost)} miss flags (cpu-model)" if lost else "",
            f"guests with {_some(gained)} miss flags (cpu-model)" if gained else "",
        )


# -- the software ------------------------------------------------------------------------------------------------------


def _software(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    yield _aspect(
        "accelerators",
        here,
        there,
        lambda host: ", ".join(host.accelerators) or "none",
        _lost_accelerators,
    )
    yield _aspect("QEMU", here, there, _version, _versions_mean)
    yield from _machine_types(here, there)
    yield _aspect(
        "encryption",
        here,
        there,
        lambda host: "QEMU can" if host.qemu is None or host.qemu.encrypts else "QEMU cannot",
        lambda _, __: "moves go in the clear alone (cannot-encrypt)",
    )
    yield _aspect(
        "kernel",
        here,
        there,
        lambda host: host.kernel,
        lambda source, target: (
            "told of (kernel-differs)" if source.kernel.partition(".")[0] != target.kernel.partition(".")[0] else ""
        ),
    )


def _lost_accelerators(source: HostFacts, target: HostFacts) -> str:
    lost = [one for one in source.accelerators if one not in target.accelerators]
    return f"guests under {' and '.join(lost)} are refused (accelerator)" if lost else ""


def _version(host: HostFacts) -> str:
    return "none" if host.qemu is None else ".".join(map(str, host.qemu.version))


def _versions_mean(source: HostFacts, target: HostFacts) -> str:
    if target.qemu is None:
        return f"nothing runs guests on {target.name} (qemu-missing)"
    if source.qemu is None or target.qemu.version > source.qemu.version:
        return "from older to newer, as it should be (qemu-differs)"
    return "from newer to older: it can fail late, at a device's state (qemu-older)"


def _machine_types(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    if here.qemu is None or there.qemu is None:
        return
    left, right = set(here.qemu.machine_types), set(there.qemu.machine_types)
    if not left or not right:
        return

    def words(own: set[str], other: set[str]) -> str:
        return f"{len(own)}{f', only here: {_some(own - other)}' if own - other else ''}"

    def means(lost: set[str]) -> str:
        return f"guests on a board of {_some(lost)} are refused (machine-type)" if lost else ""

    yield Aspect(
        "machine types",
        words(left, right),
        words(right, left),
        left != right,
        means(left - right),
        means(right - left),
    )


# -- network and storage -----------------------------------------------------------------------------------------------


def _network(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    left, right = ({bridge.name: bridge for bridge in host.bridges} for host in (here, there))
    for name in sorted(left.keys() | right.keys()):
        yield _bridge(name, (here, left.get(name)), (there, right.get(name)))
    yield _aspect(
        "firewall",
        here,
        there,
        lambda host: "sees bridged packets" if host.resources.tracks_bridged else "leaves bridges alone",
        lambda _, target: (
            "what guests are connected through may be dropped as invalid (conntrack)"
            if target.resources.tracks_bridged
            else ""
        ),
    )
    yield _aspect(
        "send queue",
        here,
        there,
        lambda host: "can be kept short" if host.can_shorten_send_queue else "cannot be kept short",
        lambda source, _: (
            ""
            if source.can_shorten_send_queue
            else "blackouts are up to 100 ms longer on the way from there (send-queue)"
        ),
    )


_At = tuple["HostFacts", "BridgeFacts | None"]


def _bridge(name: str, here: _At, there: _At) -> Aspect:
    (one, left), (other, right) = here, there
    words = (_bridge_words(left), _bridge_words(right))
    if words[0] == words[1]:
        return Aspect(f"bridge {name}", *words, differs=False)
    if left is None or right is None:
        lacks = one if left is None else other
        missing = f"guests on it are refused (bridge-missing): ip link add {name} type bridge  (on {lacks.name})"
        onward, back = ("" if bridge is None else missing for bridge in (left, right))
        return Aspect(f"bridge {name}", *words, differs=True, onward=onward, back=back)
    codes = ["bridge-mtu"] if left.mtu != right.mtu else []
    if (left.vlan_filtering, left.vlans) != (right.vlan_filtering, right.vlans):
        codes.append("bridge-vlan")
    means = f"guests on it are warned of it ({', '.join(codes)})" if codes else "it is down on one side"
    return Aspect(f"bridge {name}", *words, differs=True, onward=means, back=means)


def _bridge_words(bridge: BridgeFacts | None) -> str:
    if bridge is None:
        return "none"
    vlans = f", VLAN {', '.join(map(str, bridge.vlans))}" if bridge.vlans else ""
    return f"MTU {bridge.mtu}{vlans}{', filters VLANs' if bridge.vlan_filtering else ''}{'' if bridge.up else ', DOWN'}"


def _storage(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    left, right = ({one.path: one for one in host.storage if not _is_own(one.path)} for host in (here, there))
    for path in sorted(left.keys() | right.keys()):
        mine, theirs = left.get(path), right.get(path)
        words = (_storage_words(mine), _storage_words(theirs))
        yield Aspect(
            f"storage {path}",
            *words,
            words[0] != words[1],
            _storage_means(mine, theirs, right.values(), there) if words[0] != words[1] else "",
            _storage_means(theirs, mine, left.values(), here) if words[0] != words[1] else "",
        )


def _is_own(path: str) -> bool:
    return path == "/" or any(path == own or path.startswith(f"{own}/") for own in _OWN[1:])


def _storage_words(one: StorageFacts | None) -> str:
    if one is None:
        return "nothing mounted"
    return f"{one.kind}, a disk of its own" if one.kind in _LOCAL else f"{one.kind} {one.source}"


def _storage_means(
    source: StorageFacts | None, target: StorageFacts | None, others: Iterable[StorageFacts], host: HostFacts
) -> str:
    if source is None:
        return ""
    elsewhere = [one.path for one in others if one.source == source.source and source.kind not in _LOCAL]
    if target is None and elsewhere:
        place = elsewhere[0]
        return (
            f"{host.name} has it at {place}: guests do not find their disks (disk-missing); "
            f"mkdir -p {source.path}; mount --bind {place} {source.path}  (on {host.name})"
        )
    if target is None:
        return "disks there are copied along, or are missing where they are said to be shared (disk-missing)"
    return "disks of one name there are two files: they are refused (disk-not-shared, disk-exists)"


# -- memory, limits, time ----------------------------------------------------------------------------------------------


def _room(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    # What is free differs always: that says how large a guest may be, and not that the hosts are unlike.
    left, right = (
        f"{format_size(host.memory_available)} of {format_size(host.memory_total)} free" for host in (here, there)
    )
    onward, back = (
        f"guests of more than {format_size(host.memory_available)} are refused (memory-short)" for host in (there, here)
    )
    apart = abs(here.memory_total - there.memory_total)
    yield Aspect("memory", left, right, apart > _NOTICED * here.memory_total, onward, back)
    for size in sorted({one.size for host in (here, there) for one in host.resources.huge_pages}):
        yield _huge_pages(here, there, size)
    yield _numbered("memory nodes", here, there, lambda host: host.resources.nodes)
    yield _numbered("CPUs", here, there, lambda host: host.resources.cpus)


def _huge_pages(here: HostFacts, there: HostFacts, size: int) -> Aspect:
    def count(host: HostFacts) -> int:
        return sum(one.available for one in host.resources.huge_pages if one.size == size)

    def means(source: HostFacts, target: HostFacts) -> str:
        if count(target) >= count(source):
            return ""
        return f"guests in such pages fit up to {format_size(count(target) * size)} (hugepages)"

    return _aspect(f"huge pages of {format_size(size)}", here, there, lambda host: str(count(host)), means)


def _numbered(subject: str, here: HostFacts, there: HostFacts, of: Callable[[HostFacts], frozenset[int]]) -> Aspect:
    def means(source: HostFacts, target: HostFacts) -> str:
        lost = of(source) - of(target)
        return "guests bound to what is missing are refused (numa-node)" if lost and of(target) else ""

    return _aspect(subject, here, there, lambda host: format_numbers(of(host)) or "not said", means)


def _limits(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    yield _aspect(
        "locked memory",
        here,
        there,
        lambda host: _limit(host.resources.locked_memory, format_size),
        lambda source, target: (
            "guests whose memory is locked are refused beyond it (memlock)"
            if _less(target.resources.locked_memory, source.resources.locked_memory)
            else ""
        ),
    )
    yield _aspect(
        "open files",
        here,
        there,
        lambda host: _limit(host.resources.open_files_hard, str),
        lambda source, target: (
            "guests with many disks or queues are warned of it (open-files)"
            if _less(target.resources.open_files_hard, source.resources.open_files_hard)
            else ""
        ),
    )
    yield _aspect(
        "confinement",
        here,
        there,
        lambda host: _some(host.resources.confinement) or "none known",
        lambda _, target: (
            "a disk or socket that is permitted here may be forbidden there (confined)"
            if target.resources.confinement
            else ""
        ),
    )


def _limit(value: int | None, words: Callable[[int], str]) -> str:
    return "no limit known" if value is None else words(value)


def _less(one: int | None, other: int | None) -> bool:
    return one is not None and (other is None or one < other)


def _time(here: HostFacts, there: HostFacts) -> Iterator[Aspect]:
    apart = there.clock_offset - here.clock_offset
    differs = abs(apart) > CLOCK_TOLERANCE + here.clock_uncertainty + there.clock_uncertainty
    left, right = (
        f"{'+' if host.clock_offset >= 0 else ''}{format_duration(host.clock_offset)} against this machine"
        for host in (here, there)
    )
    means = f"guests' time could jump by {format_duration(abs(apart))} (clocks-differ)" if differs else ""
    yield Aspect("clock", left, right, differs, means, means)


_LOOKS: Final = (_processor, _software, _network, _storage, _room, _limits, _time)
