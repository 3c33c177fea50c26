"""Many guests on many hosts: what a planner knows of them, and what it plans.

Hosts that guests may move between form one fleet. A `Fleet` is all that a plan rests on: it is read from the inventory
and from samples of the load, or from a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Load:
    """What a guest or a host does: `cpu` in processors' worth, `memory` in bytes in use, the rest in bytes a second."""

    cpu: float = 0.0
    memory: int = 0
    network: float = 0.0
    disk: float = 0.0


class HostState(StrEnum):
    """What a host is there for. Only an active one takes guests."""

    ACTIVE = "active"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Watts that a host takes while it does nothing, and while all of its processors work; between them on a line."""

    idle: float
    busy: float


@dataclass(frozen=True, slots=True)
class FleetHost:
    """A host as a planner sees it.

    `cpus` are processors and `memory` bytes, of which `memory_reserve` is left alone. `cpu_ratio` is how many virtual
    CPUs a processor may have, `memory_ratio` how many bytes guests may have been given for each of the host's,
    `ceiling` the share of its processors and its network that plans use at most. `network` and `link` are what its
    guests' network and its migration link carry, in bytes a second (0: nobody knows). Guests move only within a
    `group`. `own` is what the host does besides its guests.
    """

    name: str
    cpus: float
    memory: int
    group: str = ""
    site: str = ""
    labels: frozenset[str] = frozenset()
    state: HostState = HostState.ACTIVE
    memory_reserve: int = 0
    cpu_ratio: float = 4.0
    memory_ratio: float = 1.0
    ceiling: float = 0.9
    network: float = 0.0
    link: float = 0.0
    power: PowerModel | None = None
    own: Load = Load()

    @property
    def room(self) -> int:
        """Bytes of memory that its guests may have been given together."""
        return max(0, int((self.memory - self.memory_reserve) * self.memory_ratio))

    @property
    def virtual_cpus(self) -> int:
        """How many virtual CPUs its guests may have together."""
        return int(self.cpus * self.cpu_ratio + 1e-9)


@dataclass(frozen=True, slots=True)
class MoveForecast:
    """What a move is likely to take: seconds in all at `rate` bytes a second, bytes, and seconds a client waits."""

    seconds: float
    bytes: int
    client_gap: float
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class FleetGuest:
    """A guest as a planner sees it.

    `memory` is what it was given, `disk` the bytes of disks that have to travel with it (0 where all are shared).
    `load` is None where nobody has looked. `fixed` says why it may not move, and is empty for one that may. `forecast`
    is what a move of it takes; `moved` is the instant at which it last moved, in seconds. `users` says where its users
    are, each place with its share of the traffic.
    """

    name: str
    host: str
    memory: int
    vcpus: int
    load: Load | None = None
    labels: frozenset[str] = frozenset()
    disk: int = 0
    dirty_rate: float = 0.0
    fixed: str = ""
    forecast: MoveForecast | None = None
    moved: float | None = None
    users: tuple[tuple[str, float], ...] = ()


class RuleKind(StrEnum):
    """What a rule asks: guests on one host, each on another, or only on some hosts, or never on these."""

    TOGETHER = "together"
    APART = "apart"
    ONLY_ON = "only-on"
    NEVER_ON = "never-on"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over guests, named or meant by a label (`label:web`), and for some kinds over hosts, likewise."""

    name: str
    kind: RuleKind
    guests: tuple[str, ...]
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How long a packet is on its way from a place of users to a site and back, in seconds, as measured."""

    users: str
    site: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """All hosts and guests that plans are made of, and the rules that hold between them. Names are unique."""

    hosts: tuple[FleetHost, ...]
    guests: tuple[FleetGuest, ...]
    rules: tuple[Rule, ...] = ()
    round_trips: tuple[RoundTrip, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """One move of a plan: `reason` in words; it begins once the moves with the numbers `after` have ended.

    `starts` is in seconds from the beginning of the plan, as far as forecasts tell.
    """

    number: int
    guest: str
    source: str
    target: str
    reason: str
    forecast: MoveForecast
    after: tuple[int, ...] = ()
    starts: float = 0.0


@dataclass(frozen=True, slots=True)
class Impossible:
    """What was asked for and cannot be: of which guest or host, why, and the smallest thing that would help."""

    subject: str
    why: str
    helps: str = ""


class PlanKind(StrEnum):
    """What a plan is for."""

    DRAIN = "drain"
    UNDRAIN = "undrain"
    BALANCE = "balance"
    CONSOLIDATE = "consolidate"
    RELOCATE = "relocate"


@dataclass(frozen=True, slots=True)
class FleetScore:
    """How well guests are spread: less is better; `parts` are its terms by name, their sum is `total`."""

    total: float
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A plan: its moves in order, the score before and after, what stays impossible, and how good it is.

    `gap` is by how much of the score it may be worse than the best there is, where a bound is known. `switch_off` and
    `wake` are hosts whose power changes after, or before, the moves.
    """

    kind: PlanKind
    subject: str
    moves: tuple[PlannedMove, ...]
    before: FleetScore
    after: FleetScore
    impossible: tuple[Impossible, ...] = ()
    seconds: float = 0.0
    bytes: int = 0
    gap: float | None = None
    switch_off: tuple[str, ...] = ()
    wake: tuple[str, ...] = ()
    seed: int = 0
