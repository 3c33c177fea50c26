from __future__ import annotations

from dataclasses import replace

import pytest

from godwit.core.capabilities import (
    CAPABILITIES,
    FIRST_DOWNTIME_LIMIT,
    cache_size,
    first_parameters,
    negotiate,
    send_queue_bytes,
    usual,
)
from godwit.model import DiskCopy, Features, ImageFacts, Permission, Policy, Sending, Strategy, Way
from godwit.units import KIB

OVER = {"postcopy-ram": False, "postcopy-preempt": False}
BOTH = {"events": True, "return-path": True, "xbzrle": True, "multifd": False} | OVER
USUAL = Strategy(armed=True)
ALL = Features(frozenset(), frozenset(row.name for row in CAPABILITIES), frozenset())


ABLE = replace(ALL, parameters=frozenset({"max-cpu-throttle"}))
MAY = Policy(allows=frozenset({Permission.POSTCOPY, Permission.THROTTLE}))
A_DISK = DiskCopy("disk0", ImageFacts("/images/web.raw", "raw", 1, 1), "job")


@pytest.mark.parametrize(
    ("policy", "copies", "expected"),
    [
        (MAY, (), Strategy(Sending.CHANGES, armed=True, postcopy=True)),
        (MAY, (A_DISK,), Strategy(Sending.CHANGES, armed=True)),  # it cannot go over before its disks are there
        (Policy(), (), Strategy(Sending.CHANGES, armed=True)),
        (Policy(allows=frozenset()), (), Strategy(Sending.CHANGES)),
        (replace(MAY, max_guest_slowdown=0.0), (), Strategy(Sending.CHANGES, postcopy=True)),
        (replace(MAY, way=Way.STATIC), (), Strategy(Sending.CHANGES)),  # it stands still: there is nothing to slow down
    ],
)
def test_what_is_usual_is_what_the_policy_permits_and_the_move_can_use(
    policy: Policy, copies: tuple[DiskCopy, ...], expected: Strategy
) -> None:
    assert usual(policy, ABLE, ABLE, copies) == expected


def without(*names: str) -> Features:
    return replace(ALL, capabilities=ALL.capabilities - set(names))


def test_each_side_is_set_what_concerns_it_and_no_more() -> None:
    agreed = negotiate(ALL, ALL, USUAL)
    assert agreed.source == BOTH | {"pause-before-switchover": False, "auto-converge": True}
    assert agreed.target == BOTH | {"late-block-activate": True}
    assert (agreed.missing, agreed.lacking) == ((), ())


@pytest.mark.parametrize("defaults", [False, True])
def test_disks_that_travel_along_are_waited_for(*, defaults: bool) -> None:
    assert negotiate(ALL, ALL, None if defaults else USUAL, holding=True).source["pause-before-switchover"] is True
    old = without("pause-before-switchover")
    assert negotiate(old, old, None if defaults else USUAL).lacking == ()
    assert "pause-before-switchover: unknown to the source" in negotiate(old, ALL, USUAL, holding=True).lacking[0]


def test_what_nobody_asked_for_is_left_alone() -> None:
    rich = replace(ALL, capabilities=ALL.capabilities | {"rdma-pin-all", "zero-copy-send"})
    assert negotiate(rich, rich, USUAL) == negotiate(ALL, ALL, USUAL)


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        (without("return-path"), ALL, "unknown to the source;"),
        (ALL, without("return-path"), "unknown to the target;"),
        (without("return-path"), without("return-path"), "unknown to the source and the target;"),
    ],
)
def test_what_one_side_does_not_know_is_set_on_neither(source: Features, target: Features, named: str) -> None:
    agreed = negotiate(source, target, USUAL)
    assert "return-path" not in agreed.source | agreed.target
    (missing,) = agreed.missing
    assert missing.startswith("return-path: ")
    assert named in missing
    assert agreed.lacking == ()


def test_the_source_need_not_know_what_only_the_target_does() -> None:
    assert negotiate(without("late-block-activate"), ALL, USUAL) == negotiate(ALL, ALL, USUAL)
    assert "late-block-activate" in negotiate(ALL, without("late-block-activate"), USUAL).missing[0]


@pytest.mark.parametrize(("source", "target"), [(without("events"), ALL), (ALL, without("events"))])
def test_what_no_migration_can_do_without_is_lacking_and_not_merely_missing(source: Features, target: Features) -> None:
    agreed = negotiate(source, target, USUAL)
    assert agreed.missing == ()
    (lacking,) = agreed.lacking
    assert lacking.startswith("events: unknown to the ")


def test_qemu_s_defaults_keep_only_what_makes_them_drivable() -> None:
    agreed = negotiate(ALL, ALL, None)
    both = {"events": True, "return-path": False, "xbzrle": False, "multifd": False} | OVER
    assert agreed.source == both | {"pause-before-switchover": False, "auto-converge": False}
    assert agreed.target == both | {"late-block-activate": True}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(), {"downtime-limit": 3, "max-bandwidth": 0, "max-postcopy-bandwidth": 0}),
        (Policy(max_downtime=0.002), {"downtime-limit": 2, "max-bandwidth": 0, "max-postcopy-bandwidth": 0}),
        (Policy(max_downtime=0.0001), {"downtime-limit": 1, "max-bandwidth": 0, "max-postcopy-bandwidth": 0}),
        (
            Policy(bandwidth=50_000_000),
            {"downtime-limit": 3, "max-bandwidth": 50_000_000, "max-postcopy-bandwidth": 50_000_000},
        ),
    ],
)
def test_a_stream_begins_with_little_downtime_and_the_bandwidth_allowed(
    policy: Policy, expected: dict[str, int]
) -> None:
    assert first_parameters(policy) == expected
    assert expected["downtime-limit"] <= FIRST_DOWNTIME_LIMIT * 1000


@pytest.mark.parametrize(("bandwidth", "expected"), [(None, 128 << 20), (10**7, 10**7)])
def test_qemu_s_defaults_are_set_aloud(bandwidth: int | None, expected: int) -> None:
    """An earlier move may have left other values behind."""
    chosen = first_parameters(Policy(max_downtime=0.01, bandwidth=bandwidth), defaults=True)
    assert chosen == {"downtime-limit": 300, "max-bandwidth": expected, "max-postcopy-bandwidth": 0}
    chosen["downtime-limit"] = 1
    assert first_parameters(Policy(), defaults=True)["downtime-limit"] == 300


@pytest.mark.parametrize(
    ("memory", "cache"),
    [
        *[(1, 64 << 20), (64 << 20, 64 << 20), (224 << 20, 256 << 20), (256 << 20, 256 << 20), (1 << 30, 1 << 30)],
        *[
            ((1 << 30) + 4096, 1 << 30),
            (4 << 30, 1 << 30),
            (16 << 30, 4 << 30),
            (31 << 30, 4 << 30),
            (1 << 40, 1 << 38),
        ],
    ],
)
def test_a_guests_pages_each_have_a_place_in_the_cache_up_to_a_quarter_of_a_large_ones(memory: int, cache: int) -> None:
    assert cache_size(memory) == cache


@pytest.mark.parametrize(
    ("rate", "encrypted", "expected"),
    [
        (None, True, 64 * KIB),  # nobody knows what the link carries
        (0.0, True, 64 * KIB),
        (64 * KIB / 0.005, True, 64 * KIB),
        (20e6, True, 100_000),  # what it carries in 5 ms
        (50e6, True, 250_000),
        (256 * KIB / 0.005, True, 256 * KIB),
        (1.25e9, True, 256 * KIB),
        (None, False, 64 * KIB),
        (1.25e9, False, 64 * KIB),
    ],
)
def test_the_send_queue_is_longer_for_what_is_encrypted_and_fast(
    rate: float | None, *, encrypted: bool, expected: int
) -> None:
    assert send_queue_bytes(rate, encrypted=encrypted) == expected
