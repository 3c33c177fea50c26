"""Migration capabilities and parameters: which ones Godwit sets, on which side, and why.

They are negotiated by introspection: a row applies where every side it concerns knows it. Capabilities cannot change
once a stream runs (QEMU refuses: "There's a migration process in progress"); parameters can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.model import Permission, Sending, Side, Strategy, Way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import DiskCopy, Features, Policy

FIRST_DOWNTIME_LIMIT: Final = 0.003
"""Seconds. QEMU switches over as soon as what remains fits into `downtime-limit`, so its default of 300 ms is spent
even on an idle guest; one that converges reaches 3 ms in a few short passes more, and where it does not the strategy
raises the limit within three of them."""

SEND_QUEUE_BYTES: Final = 64 * 1024
"""The unsent queue of the migration socket. QEMU believes that it has sent what still waits in the kernel; each
64 KiB on a 400 Mbit/s link is 1.3 ms of blackout."""

LONGEST_SEND_QUEUE_BYTES: Final = 256 * 1024
"""Beyond that an encrypted stream gains little: 139 MB/s were measured with it, 148 with 1 MiB, and 102 with 64 KiB."""

SEND_QUEUE_SECONDS: Final = 0.005
"""How long what an encrypted stream has unsent may take its link."""

_BOTH: Final = frozenset({Side.SOURCE, Side.TARGET})


def send_queue_bytes(rate: float | None, *, encrypted: bool) -> int:
    """Return how long the unsent queue may be, for a stream that its link lets go with `rate` bytes a second.

    None means that nobody knows. In the clear a short queue costs next to nothing; encrypted, it holds a fast link up.
    """
    if not encrypted or rate is None:
        return SEND_QUEUE_BYTES
    return round(max(SEND_QUEUE_BYTES, min(rate * SEND_QUEUE_SECONDS, LONGEST_SEND_QUEUE_BYTES)))


@dataclass(frozen=True, slots=True)
class Capability:
    """One migration capability of QEMU: who must have it set, and what for."""

    name: str
    sides: frozenset[Side]
    why: str
    needed: bool = False
    holding: bool = False
    """Only for a migration whose disks travel along; it cannot do without it."""
    chosen: bool = False
    """Only where the strategy says so."""
    optional: bool = False
    """Nobody needs to know that a QEMU lacks it."""


CAPABILITIES: Final = (
    Capability("events", _BOTH, "the switchover is driven by events, not by polls", needed=True),
    Capability(
        "xbzrle",
        _BOTH,
        "the pages that even a quiet guest writes again and again travel as the bytes that changed in them, so that the"
        " last pass, the one that the guest waits for, is a fraction of what it would be",
        chosen=True,
    ),
    Capability(
        "multifd",
        _BOTH,
        "pages travel compressed, by several threads, where the link and not a CPU is what holds them back",
        chosen=True,
    ),
    Capability(
        "postcopy-ram",
        _BOTH,
        "the guest can go over to the target before its memory, which ends any move",
        chosen=True,
    ),
    Capability(
        "postcopy-preempt",
        _BOTH,
        "what the guest waits for overtakes what merely has to be sent",
        chosen=True,
        optional=True,
    ),
    Capability(
        "auto-converge",
        frozenset({Side.SOURCE}),
        "a guest that writes faster than the link carries can be slowed down by just as much as it takes",
        chosen=True,
    ),
    Capability(
        "pause-before-switchover",
        frozenset({Side.SOURCE}),
        "the guest is held, standing still, until its disks are complete on the target",
        holding=True,
    ),
    Capability("return-path", _BOTH, "the source learns from the target that it has loaded everything"),
    Capability(
        "late-block-activate",
        frozenset({Side.TARGET}),
        "the disks stay with the source until the target is told to run, so that a failed switchover can go back",
    ),
)

DEFAULTS_ONLY: Final = frozenset({"events", "late-block-activate"})
"""What a migration with QEMU's defaults sets all the same: without them nobody could drive it, or take it back."""

QEMU_DEFAULTS: Final[dict[str, int | str | bool]] = {
    "downtime-limit": 300,
    "max-bandwidth": 128 * 1024 * 1024,
    "max-postcopy-bandwidth": 0,
}
"""QEMU's own values (migration/options.c); set explicitly, for an earlier move may have left others."""

CONVERGE_DEFAULTS: Final[dict[str, int | str | bool]] = {
    "cpu-throttle-initial": 20,
    "cpu-throttle-increment": 10,
    "max-cpu-throttle": 99,
    "throttle-trigger-threshold": 50,
}
"""How QEMU's auto-converge goes about it by itself."""

PACE: Final = "avail-switchover-bandwidth"
"""The parameter that tells QEMU how fast pages are got through (8.2), instead of what it sees on the wire."""

TLS_UNSET: Final[dict[str, int | str | bool]] = {"tls-creds": "", "tls-hostname": "", "tls-authz": ""}
"""The parameters of an encrypted stream where it is none."""

UNTOUCHED: Final[dict[str, int | str | bool]] = {"mode": "normal", PACE: 0, **TLS_UNSET}
"""Parameters that only some QEMUs have, as they are where nobody has set them."""


CHANNELS: Final = 2
"""Threads, and connections, that send compressed pages."""

HELD: Final = 1
"""The percentage at which QEMU's auto-converge does nothing that anybody notices: the least that it can."""

_THRESHOLD: Final = 1
"""The percentage of what a pass sends that the guest must have changed for QEMU to slow it down: the least, so that it
is the strategy that decides when."""

_COMPRESSION: Final = {Sending.ZSTD: "zstd", Sending.ZLIB: "zlib"}

_DEFAULT_CACHE, _SMALL = 64 << 20, 1 << 30


def cache_size(memory: int) -> int:
    """Return the bytes of QEMU's cache of sent pages (`xbzrle-cache-size`) for a guest of that memory: a power of two.

    A page's place in it is its address modulo the size (migration/page_cache.c), and a page whose place is taken is
    sent whole each time: in a cache just as large as a hot set whose pages lie scattered that is every third one. A
    cache as large as the memory has a place for each. It takes memory only for pages that are put there, that is for
    those which the guest changes while it is moved; for large guests it is bounded by a quarter of theirs.
    """
    most = memory if memory <= _SMALL else max(_SMALL, memory // 4)
    return max(_DEFAULT_CACHE, 1 << (most - 1).bit_length() if memory <= _SMALL else 1 << (most.bit_length() - 1))


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What is set on each side, and what could not be (in words); `lacking` is what no migration can do without."""

    source: dict[str, bool]
    target: dict[str, bool]
    missing: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


def sendings(source: Features, target: Features) -> tuple[Sending, ...]:
    """Return the ways in which pages can travel between two QEMUs.

    Pages that multifd sends are not sent as their changes: QEMU refuses both together, or, before 8.1, takes both and
    then sends pages whole (migration/ram.c).
    """
    both = source.capabilities & target.capabilities
    found = [Sending.WHOLE]
    if "xbzrle" in both:
        found.append(Sending.CHANGES)
    if "multifd" in both:
        common = source.compressions & target.compressions
        found += [sending for sending, name in _COMPRESSION.items() if name in common][:1]
    return tuple(found)


def can_throttle(source: Features) -> bool:
    """Say whether a QEMU can slow its guest down by just as much as it is told."""
    return "auto-converge" in source.capabilities and "max-cpu-throttle" in source.parameters


def can_go_over(source: Features, target: Features) -> bool:
    """Say whether a guest can go over to the target before its memory."""
    return "postcopy-ram" in source.capabilities & target.capabilities


def usual(policy: Policy, source: Features, target: Features, copies: Sequence[DiskCopy] = ()) -> Strategy:
    """Return the strategy for a guest of which nothing is known; `copies` are the disks that travel before its memory.

    Only one that runs on meanwhile has to be slowed down, or can go over; and that not with copied disks.
    """
    sending = Sending.CHANGES if Sending.CHANGES in sendings(source, target) else Sending.WHOLE
    live = policy.way is Way.LIVE
    armed = live and can_throttle(source) and policy.most_throttle > HELD
    over = live and not copies and Permission.POSTCOPY in policy.allows and can_go_over(source, target)
    return Strategy(sending, armed=armed, postcopy=over)


def _chosen(strategy: Strategy) -> frozenset[str]:
    """Return the capabilities that the strategy asks for."""
    multifd = {"multifd"} if strategy.sending in _COMPRESSION else set()
    changes = {"xbzrle"} if strategy.sending is Sending.CHANGES else set()
    over = {"postcopy-ram", "postcopy-preempt"} if strategy.postcopy else set()
    return frozenset(multifd | changes | over | ({"auto-converge"} if strategy.armed else set()))


def negotiate(
    source: Features,
    target: Features,
    strategy: Strategy | None,
    *,
    holding: bool = False,
    converge: bool = False,
) -> Negotiated:
    """Choose the capabilities that every concerned side knows; without a strategy, those of QEMU's own defaults.

    `holding` is for a migration with disks to copy, `converge` adds auto-converge to QEMU's defaults.
    """
    known = {Side.SOURCE: source.capabilities, Side.TARGET: target.capabilities}
    chosen: dict[Side, dict[str, bool]] = {Side.SOURCE: {}, Side.TARGET: {}}
    missing: list[str] = []
    lacking: list[str] = []
    for row in CAPABILITIES:
        wanted = _wanted(row, strategy, holding=holding, converge=converge)
        ignorant = sorted(side for side in row.sides if row.name not in known[side])
        if ignorant:
            words = f"{row.name}: unknown to the {' and the '.join(ignorant)}; {row.why}"
            if (wanted or not (row.holding or row.chosen)) and not row.optional:
                (lacking if row.needed or row.holding else missing).append(words)
            continue
        for side in row.sides:
            chosen[side][row.name] = wanted
    return Negotiated(chosen[Side.SOURCE], chosen[Side.TARGET], tuple(missing), tuple(lacking))


def _wanted(row: Capability, strategy: Strategy | None, *, holding: bool, converge: bool) -> bool:
    if row.holding:
        return holding
    if strategy is None:
        return row.name in DEFAULTS_ONLY or (converge and row.name == "auto-converge")
    return row.name in _chosen(strategy) if row.chosen else True


def strategy_parameters(strategy: Strategy, features: Features, memory: int) -> dict[str, int | str | bool]:
    """Return what a strategy sets on the source, of a guest with so many bytes of memory, in QEMU's units.

    A guest that is armed to be slowed down, and is not to be yet, is held at the least: QEMU goes from its first
    percentage to the largest in steps, at most one a second (migration_trigger_throttle() in migration/ram.c).
    """
    wanted = multifd_parameters(strategy)
    if strategy.sending is Sending.CHANGES:
        wanted["xbzrle-cache-size"] = cache_size(memory)
    if strategy.armed:
        percentage = max(strategy.throttle, HELD)
        wanted |= {"cpu-throttle-initial": percentage, "max-cpu-throttle": percentage, "cpu-throttle-increment": HELD}
        wanted |= {"cpu-throttle-tailslow": False, "throttle-trigger-threshold": _THRESHOLD}
    return {name: value for name, value in wanted.items() if name in features.parameters}


def multifd_parameters(strategy: Strategy) -> dict[str, int | str | bool]:
    """Return what both sides must set alike for pages that travel compressed."""
    compression = _COMPRESSION.get(strategy.sending)
    return {} if compression is None else {"multifd-channels": CHANNELS, "multifd-compression": compression}


def unset(features: Features) -> tuple[dict[str, bool], dict[str, int | str | bool]]:
    """Return capabilities and parameters as a QEMU has them with which nobody has migrated anything yet.

    Of what may be set for a move; whoever works with that QEMU next is to find nothing of it.
    """
    capabilities = {row.name: False for row in CAPABILITIES if row.name in features.capabilities}
    usual = QEMU_DEFAULTS | CONVERGE_DEFAULTS | UNTOUCHED | {"multifd-compression": "none"}
    return capabilities, {name: value for name, value in usual.items() if name in features.parameters}


def throttle_parameters(now: int, percentage: int) -> tuple[tuple[str, int], ...]:
    """Return what leads a guest that sleeps `now` percent of its time to `percentage` in one step."""
    step = max(HELD, percentage - max(now, HELD))
    return (("max-cpu-throttle", percentage), ("cpu-throttle-increment", step))


def first_parameters(policy: Policy, *, defaults: bool = False) -> dict[str, int | str | bool]:
    """Return the source's parameters before the stream starts, in QEMU's units (ms, bytes a second; 0 is unlimited)."""
    if defaults:
        return QEMU_DEFAULTS | ({} if policy.bandwidth is None else {"max-bandwidth": policy.bandwidth})
    limit, most = min(policy.max_downtime, FIRST_DOWNTIME_LIMIT), policy.bandwidth or 0
    return {"downtime-limit": max(1, round(limit * 1000)), "max-bandwidth": most, "max-postcopy-bandwidth": most}
