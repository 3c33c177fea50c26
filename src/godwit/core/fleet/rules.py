"""What rules mean for the guests and hosts of a fleet, and where they contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

from godwit.model.fleet import Impossible, RuleKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from godwit.model.fleet import Fleet, FleetGuest, FleetHost, Rule

LABEL: Final = "label:"
"""What is meant by a label is written so: `label:web`."""


def meant(words: Sequence[str], things: Sequence[FleetGuest] | Sequence[FleetHost]) -> tuple[str, ...]:
    """Return the names that a rule means, in the order of the fleet; what it names and nobody has is not among them."""
    names = {word for word in words if not word.startswith(LABEL)}
    labels = {word.removeprefix(LABEL) for word in words if word.startswith(LABEL)}
    return tuple(thing.name for thing in things if thing.name in names or labels & thing.labels)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A rule with the guests and hosts that it means, by name."""

    rule: Rule
    guests: tuple[str, ...]
    hosts: tuple[str, ...]


def resolved(fleet: Fleet) -> tuple[Resolved, ...]:
    """Return all rules of a fleet with what they mean."""
    return tuple(
        Resolved(rule, meant(rule.guests, fleet.guests), meant(rule.hosts, fleet.hosts)) for rule in fleet.rules
    )


def contradictions(fleet: Fleet) -> tuple[Impossible, ...]:
    """Return what no placement could keep, each with the rules that it comes from."""
    rules = resolved(fleet)
    return (*_pairs(rules), *_nowhere(fleet, rules), *_too_many(fleet, rules))


def _of(rules: Sequence[Resolved], kind: RuleKind) -> list[Resolved]:
    return [one for one in rules if one.rule.kind is kind]


def _pairs(rules: Sequence[Resolved]) -> Iterator[Impossible]:
    """Yield guests that are to be together and apart."""
    for members, names in united(rules):
        for apart in _of(rules, RuleKind.APART):
            both = [guest for guest in apart.guests if guest in members]
            if len(both) > 1:
                why = f"{_quoted(names)} has them on one host, '{apart.rule.name}' keeps them apart"
                yield Impossible(" and ".join(both), why, f"take {both[-1]} out of one of the rules")


def united(rules: Sequence[Resolved]) -> list[tuple[frozenset[str], tuple[str, ...]]]:
    """Return the sets of guests that are to be on one host, whatever number of rules says so, with those rules."""
    groups: list[tuple[set[str], list[str]]] = []
    for one in _of(rules, RuleKind.TOGETHER):
        members, names = set(one.guests), [one.rule.name]
        for group in [group for group in groups if group[0] & members]:
            groups.remove(group)
            members |= group[0]
            names = [*group[1], *names]
        groups.append((members, names))
    return [(frozenset(members), tuple(names)) for members, names in groups]


def _nowhere(fleet: Fleet, rules: Sequence[Resolved]) -> Iterator[Impossible]:
    """Yield guests that no host of their group may have."""
    group_of = {host.name: host.group for host in fleet.hosts}
    homes = {guest.name: guest.host for guest in fleet.guests}
    hosts = {host.name for host in fleet.hosts}
    sets = [*united(rules)]
    alone = {guest.name for guest in fleet.guests} - {name for members, _ in sets for name in members}
    limited = {guest for one in rules if one.rule.kind in {RuleKind.ONLY_ON, RuleKind.NEVER_ON} for guest in one.guests}
    sets += [(frozenset({name}), ()) for name in sorted(alone & limited)]
    for members, together in sets:
        able, named = set(hosts), list(together)
        groups = {group_of[homes[name]] for name in members if homes[name] in group_of}
        able = {host for host in able if group_of[host] in groups} if len(groups) == 1 else set()
        for one in rules:
            if one.rule.kind not in {RuleKind.ONLY_ON, RuleKind.NEVER_ON} or not members & set(one.guests):
                continue
            named.append(one.rule.name)
            able = able & set(one.hosts) if one.rule.kind is RuleKind.ONLY_ON else able - set(one.hosts)
        if not able:
            where = "no host" if len(groups) == 1 else "no host of all their groups"
            yield Impossible(
                " and ".join(sorted(members)), f"{_quoted(named)} leaves {where} for it", "change one of these rules"
            )


def _too_many(fleet: Fleet, rules: Sequence[Resolved]) -> Iterator[Impossible]:
    """Yield rules that keep more guests apart than there are hosts that may have them."""
    homes = {guest.name: guest.host for guest in fleet.guests}
    group_of = {host.name: host.group for host in fleet.hosts}
    for one in _of(rules, RuleKind.APART):
        for group in sorted({group_of.get(homes[guest], "") for guest in one.guests}):
            guests = [guest for guest in one.guests if group_of.get(homes[guest], "") == group]
            hosts = [host for host in fleet.hosts if host.group == group]
            if len(guests) > len(hosts):
                why = f"'{one.rule.name}' keeps {len(guests)} guests apart, and there are {len(hosts)} hosts for them"
                yield Impossible(one.rule.name, why, f"{len(guests) - len(hosts)} more hosts, or fewer guests in it")


def strangers(fleet: Fleet) -> tuple[str, ...]:
    """Return what rules name that the fleet does not have, in words."""
    guests = {guest.name for guest in fleet.guests}
    hosts = {host.name for host in fleet.hosts}
    found = []
    for rule in fleet.rules:
        for words, known, what in ((rule.guests, guests, "guest"), (rule.hosts, hosts, "host")):
            found += [
                f"'{rule.name}' names {word}, which is no {what} here"
                for word in words
                if not word.startswith(LABEL) and word not in known
            ]
    return tuple(found)


def broken(fleet: Fleet) -> list[tuple[str, str]]:
    """Return the rules that a fleet breaks as it is, each with a guest that shows it."""
    at = {guest.name: guest.host for guest in fleet.guests}
    found: list[tuple[str, str]] = []
    for one in resolved(fleet):
        match one.rule.kind:
            case RuleKind.TOGETHER:
                found += [(one.rule.name, guest) for guest in one.guests[1:] if at[guest] != at[one.guests[0]]]
            case RuleKind.APART:
                found += [
                    (one.rule.name, later) for first, later in combinations(one.guests, 2) if at[first] == at[later]
                ]
            case RuleKind.ONLY_ON:
                found += [(one.rule.name, guest) for guest in one.guests if at[guest] not in one.hosts]
            case RuleKind.NEVER_ON:
                found += [(one.rule.name, guest) for guest in one.guests if at[guest] in one.hosts]
    return found


def _quoted(names: Sequence[str]) -> str:
    return " with ".join(f"'{name}'" for name in names)
