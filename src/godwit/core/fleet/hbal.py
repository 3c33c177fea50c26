"""The text format of Ganeti's hbal, read into a fleet and written from one, and what hbal calls a good placement.

Its sections are parted by empty lines: groups, nodes, instances, tags of the cluster, policies; fields by `|`, sizes
are in MiB (see hbal(1) and htools(1)). Instances on storage that all nodes reach have a template such as `ext`: those
are the ones that move as Godwit moves guests.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

import numpy as np

from godwit.core.fleet.placement import Problem
from godwit.errors import InputError
from godwit.model.fleet import Fleet, FleetGuest, FleetHost, HostState, Load, Rule, RuleKind
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


SHARED: Final = frozenset({"ext", "rbd", "sharedfile", "gluster"})
"""Templates of disks that all nodes reach."""

EXCLUSION: Final = "htools:iextags:"
"""A tag of the cluster that names what instances' tags keep them apart by."""

_NODE_FIELDS, _INSTANCE_FIELDS = 9, 10
_DEFAULT_GROUP: Final = "default"

WEIGHT_OF_LOADS: Final = 4.0
"""hbal spreads the load of CPU, memory, disk and network, and takes each instance to cause 1 of each."""


def fleet_of(text: str, *, cpu_ratio: float = 64.0) -> Fleet:
    """Read a cluster as hbal's `-t` does; `cpu_ratio` is how many virtual CPUs a processor may have.

    Raises InputError that names the line for what is no such file.
    """
    sections = list(_sections(text))
    sections += [[] for _ in range(5 - len(sections))]
    groups, nodes, instances, tags, _ = sections[:5]
    named = {_field(line, number, 1): _field(line, number, 0) for number, line in groups}
    guests = [_guest(line, number) for number, line in instances]
    given: dict[str, int] = {}
    for guest in guests:
        given[guest.host] = given.get(guest.host, 0) + guest.memory
    hosts = tuple(_host(line, number, named, given, cpu_ratio) for number, line in nodes)
    known = {host.name for host in hosts}
    for guest, (number, _line) in zip(guests, instances, strict=True):
        if guest.host not in known:
            message = f"line {number}: {guest.name} is on {guest.host}, which is no node of the file"
            raise InputError(message)
    prefixes = [tag.removeprefix(EXCLUSION) for _, tag in tags if tag.startswith(EXCLUSION)]
    return Fleet(hosts, tuple(guests), tuple(_exclusions(guests, prefixes)))


def _sections(text: str) -> Iterator[list[tuple[int, str]]]:
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            found.append((number, line.strip()))
        else:
            yield found
            found = []
    yield found


def _field(line: str, number: int, index: int) -> str:
    fields = line.split("|")
    if index >= len(fields):
        message = f"line {number} has {len(fields)} fields, and one more is needed at least: {line}"
        raise InputError(message, remedy="write it as hbal's -S does; see htools(1), section 'text'")
    return fields[index]


def _number(line: str, number: int, index: int) -> float:
    field = _field(line, number, index)
    try:
        return float(field)
    except ValueError as error:
        message = f"line {number}, field {index + 1}: {field!r} is no number"
        raise InputError(message) from error


def _host(line: str, number: int, groups: Mapping[str, str], given: Mapping[str, int], cpu_ratio: float) -> FleetHost:
    name = _field(line, number, 0)
    total, free = (int(_number(line, number, index)) * MIB for index in (1, 3))
    group = _field(line, number, _NODE_FIELDS - 1)
    own = max(0, total - free - given.get(name, 0))
    states = {"N": HostState.ACTIVE, "Y": HostState.MAINTENANCE, "M": HostState.ACTIVE}
    state = states.get(_field(line, number, 7))
    if state is None:
        message = f"line {number}, field 8: a node is offline (Y), not (N) or the master (M)"
        raise InputError(message)
    return FleetHost(
        name,
        cpus=_number(line, number, 6),
        memory=total,
        group=groups.get(group, group),
        state=state,
        memory_reserve=own,
        cpu_ratio=cpu_ratio,
        own=Load(memory=own),
    )


def _guest(line: str, number: int) -> FleetGuest:
    memory, disk = (int(_number(line, number, index)) * MIB for index in (1, 2))
    template = _field(line, number, 8)
    tags = frozenset(tag for tag in _field(line, number, 9).split(",") if tag)
    fixed = ""
    if _field(line, number, 5) != "Y":
        fixed = "auto_balance is off"
    elif template not in SHARED:
        fixed = f"its disks ({template}) lie on its host"
    return FleetGuest(
        _field(line, number, 0),
        _field(line, number, 6),
        memory=memory,
        vcpus=int(_number(line, number, 3)),
        labels=tags,
        disk=0 if template in SHARED else disk,
        fixed=fixed,
    )


def _exclusions(guests: Sequence[FleetGuest], prefixes: Sequence[str]) -> Iterator[Rule]:
    for prefix in prefixes:
        for tag in sorted({tag for guest in guests for tag in guest.labels if tag.startswith(f"{prefix}:")}):
            members = tuple(guest.name for guest in guests if tag in guest.labels)
            if len(members) > 1:
                yield Rule(tag, RuleKind.APART, members)


def text_of(fleet: Fleet) -> str:
    """Write a fleet so that hbal reads it: what hbal does not know of, such as a host's site, is left out."""
    groups = sorted({host.group or _DEFAULT_GROUP for host in fleet.hosts})
    ids = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in groups}
    given = {host.name: 0 for host in fleet.hosts}
    for guest in fleet.guests:
        given[guest.host] = given.get(guest.host, 0) + guest.memory
    apart = [rule for rule in fleet.rules if rule.kind is RuleKind.APART]
    lines = [f"{name}|{ids[name]}|preferred||" for name in groups]
    lines.append("")
    for host in fleet.hosts:
        own = max(host.own.memory, host.memory_reserve)
        free = max(0, host.memory - own - given[host.name])
        away = "N" if host.state is HostState.ACTIVE else "Y"
        group = ids[host.group or _DEFAULT_GROUP]
        sizes = f"{host.memory // MIB}|{own // MIB}|{free // MIB}|0|0|{host.cpus:g}"
        lines.append(f"{host.name}|{sizes}|{away}|{group}|1")
    lines.append("")
    for guest in fleet.guests:
        kept = [f"godwit:{rule.name}" for rule in apart if guest.name in rule.guests]
        tags = ",".join(sorted({*guest.labels, *kept}))
        balanced = "N" if guest.fixed else "Y"
        sizes = f"{guest.memory // MIB}|{guest.disk // MIB}|{guest.vcpus}"
        lines.append(f"{guest.name}|{sizes}|running|{balanced}|{guest.host}||ext|{tags}|1")
    lines.append("")
    lines += [f"{EXCLUSION}godwit"] * bool(apart)
    return "\n".join([*lines, "", ""])


def problem_of(fleet: Fleet, price_per_byte: float = 0.0) -> Problem:
    """Return the placement of a fleet as hbal judges it: memory, virtual CPUs, and how many instances a node has.

    `price_per_byte` is what a byte that is moved costs of the score.
    """
    index = {host.name: number for number, host in enumerate(fleet.hosts)}
    groups = {name: number for number, name in enumerate(sorted({host.group for host in fleet.hosts}))}
    active = np.array([host.state is HostState.ACTIVE for host in fleet.hosts], dtype=bool)
    group = np.array([groups[host.group] for host in fleet.hosts], dtype=np.intp)
    home = np.array([index[guest.host] for guest in fleet.guests], dtype=np.intp)
    memory = np.array([guest.memory for guest in fleet.guests], dtype=np.float64)
    vcpus = np.array([guest.vcpus for guest in fleet.guests], dtype=np.float64)
    names = {guest.name: number for number, guest in enumerate(fleet.guests)}
    total, cpus = (np.array([getattr(host, what) for host in fleet.hosts], float) for what in ("memory", "cpus"))
    room = np.array([host.room for host in fleet.hosts], dtype=np.float64)
    own = np.array([host.own.memory for host in fleet.hosts], dtype=np.float64)
    ratio = np.array([host.cpu_ratio for host in fleet.hosts], dtype=np.float64)
    return Problem(
        home=home,
        need=np.column_stack([memory, vcpus]),
        room=np.column_stack([room, cpus * ratio]),
        load=np.column_stack([memory, vcpus, np.ones_like(memory)]),
        base=np.column_stack([own, np.zeros_like(own), np.zeros_like(own)]),
        scale=np.column_stack([total, cpus, np.ones_like(own)]),
        weight=np.array([1.0, 1.0, WEIGHT_OF_LOADS]),
        counted=active,
        kind=group[home],
        takes=(np.arange(len(groups))[:, None] == group[None, :]) & active[None, :],
        movable=np.array([not guest.fixed for guest in fleet.guests], dtype=bool),
        price=memory * price_per_byte,
        apart=tuple(tuple(names[name] for name in rule.guests) for rule in fleet.rules if rule.kind is RuleKind.APART),
    )
