"""Random fleets: hosts of several sizes, guests that fill them more or less, rules of every kind, hosts out of use."""

from __future__ import annotations

from random import Random

from godwit.model.fleet import Fleet, FleetGuest, FleetHost, HostState, Load, Rule, RuleKind
from godwit.units import GIB, MIB


def random_fleet(seed: int) -> Fleet:
    """Return a fleet that is the same for the same seed; some are crowded, some break their own rules."""
    chance = Random(seed)  # noqa: S311 - no secret
    fullness = chance.choice([0.4, 0.7, 0.95])
    hosts = [_host(chance, number) for number in range(chance.randint(2, 9))]
    guests: list[FleetGuest] = []
    for host in hosts:
        used, vcpus = 0, 0
        while len(guests) < 80:
            guest = _guest(chance, f"g{len(guests)}", host.name)
            used, vcpus = used + guest.memory, vcpus + guest.vcpus
            if used > host.room * fullness * chance.uniform(0.6, 1.1) or vcpus > host.virtual_cpus:
                break
            guests.append(guest)
    return Fleet(tuple(hosts), tuple(guests), tuple(_rules(chance, hosts, guests)))


def _host(chance: Random, number: int) -> FleetHost:
    return FleetHost(
        f"h{number}",
        cpus=chance.choice([8, 16, 32]),
        memory=chance.choice([16, 32, 64]) * GIB,
        group=chance.choice(["", "", "", "other"]),
        site=chance.choice(["north", "south"]),
        labels=frozenset(chance.sample(["ssd", "gpu"], chance.randint(0, 2))),
        state=chance.choices([HostState.ACTIVE, HostState.MAINTENANCE, HostState.OFF], [8, 1, 1])[0],
        memory_reserve=chance.choice([0, 1, 2]) * GIB,
        network=chance.choice([0.0, 1200.0 * MIB]),
        link=chance.choice([0.0, 110.0 * MIB]),
    )


def _guest(chance: Random, name: str, host: str) -> FleetGuest:
    memory, vcpus = chance.choice([1, 2, 4, 8]) * GIB, chance.choice([1, 1, 2, 4])
    load = Load(
        cpu=vcpus * chance.betavariate(1, 4),
        memory=int(memory * chance.uniform(0.2, 1)),
        network=chance.choice([0.0, 1.0, 20.0]) * MIB,
    )
    return FleetGuest(
        name,
        host,
        memory,
        vcpus,
        load=None if chance.random() < 0.1 else load,
        labels=frozenset(chance.sample(["web", "db", "cache"], chance.randint(0, 1))),
        dirty_rate=chance.choice([0.0, 5.0, 80.0]) * MIB,
        fixed="a disk of its own lies there" if chance.random() < 0.05 else "",
    )


def _rules(chance: Random, hosts: list[FleetHost], guests: list[FleetGuest]) -> list[Rule]:
    rules = []
    for number in range(chance.randint(0, 4)):
        kind = chance.choice(list(RuleKind))
        some = [guest.name for guest in chance.sample(guests, min(len(guests), chance.randint(2, 3)))]
        named = () if kind in {RuleKind.TOGETHER, RuleKind.APART} else _some_hosts(chance, hosts)
        rules.append(Rule(f"rule {number}", kind, tuple(some), named))
    return rules


def _some_hosts(chance: Random, hosts: list[FleetHost]) -> tuple[str, ...]:
    if chance.random() < 0.3:
        return ("label:ssd",)
    return tuple(host.name for host in chance.sample(hosts, chance.randint(1, len(hosts))))
