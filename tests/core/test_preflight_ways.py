"""What preflight finds of a guest that stands still or is switched off for its move."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_preflight import GOOD, GUEST, QEMU, host

from godwit.core.preflight import Evidence, check
from godwit.core.preflight.evidence import DiskProof
from godwit.model import Finding, ImageFacts, PlaceFacts, Policy, RunState, Severity, Way
from godwit.units import GIB, MIB

LIVE, STATIC, OFF = Way

TO_BE_COPIED = DiskProof(
    *("disk0", "/images/web.raw", False, False, "1 7", ""),
    image=ImageFacts("/images/web.raw", "raw", GIB, 64 * MIB),
    place=PlaceFacts(exists=False, writable=True, available=GIB, can_create=True),
)


def found(way: Way, evidence: Evidence = GOOD) -> dict[str, Finding]:
    policy = replace(evidence.policy, way=way)
    return {finding.code: finding for finding in check(replace(evidence, policy=policy))}


def test_the_price_is_said_beforehand() -> None:
    assert found(LIVE) == {}
    still = found(STATIC, replace(GOOD, disks=(TO_BE_COPIED,)))["stands-still"]
    assert still.severity is Severity.INFO
    assert "2.1 GiB" in still.found or "2.06 GiB" in still.found
    assert list(found(OFF)) == ["switched-off"]


@pytest.mark.parametrize(
    ("evidence", "code", "counts"),
    [
        (replace(GOOD, guest=replace(GUEST, blockers=("nvme is not migratable",))), "blocked-by-qemu", {LIVE, STATIC}),
        (replace(GOOD, target=host("two", cpu_flags=frozenset({"lm"}))), "cpu-flags", {LIVE, STATIC}),
        (replace(GOOD, target=host("two", cpu_vendor="AuthenticAMD")), "cpu-vendor", {LIVE, STATIC}),
        (replace(GOOD, target=host("two", clock_offset=9.0)), "clocks-differ", {LIVE, STATIC}),
        (replace(GOOD, target=host("two", qemu=replace(QEMU, version=(9, 2, 0)))), "qemu-older", {LIVE, STATIC}),
        (replace(GOOD, source=host("one", can_shorten_send_queue=False)), "send-queue", {LIVE}),
        (
            replace(GOOD, guest=replace(GUEST, accelerator="tcg", qemu_version=(7, 2, 0))),
            "tcg-corrupts",
            {LIVE},
        ),
        (replace(GOOD, reachable=False), "migration-path", {LIVE, STATIC}),
        (replace(GOOD, reachable=False, disks=(TO_BE_COPIED,)), "migration-path", set(Way)),
        (replace(GOOD, guest=replace(GUEST, run_state=RunState.PAUSED)), "not-running", set(Way)),
        (replace(GOOD, guest=replace(GUEST, inherited_descriptors=("fd=7",))), "inherited-descriptor", set(Way)),
        (replace(GOOD, target=host("two", memory_available=MIB)), "memory-short", set(Way)),
        (replace(GOOD, guest=replace(GUEST, qemu_version=(5, 2, 0))), "qemu-ends-with-guest", {OFF}),
    ],
)
def test_what_counts_on_which_way(evidence: Evidence, code: str, counts: set[Way]) -> None:
    assert {way for way in Way if code in found(way, evidence)} == counts


def test_the_mend_names_the_way_that_would_help() -> None:
    blocked = found(LIVE, replace(GOOD, guest=replace(GUEST, blockers=("nvme is not migratable",))))["blocked-by-qemu"]
    assert blocked.mend.endswith("or move it switched off: godwit migrate web two --static --off")


def test_a_policy_is_live_unless_it_says_otherwise() -> None:
    assert Policy().way is Way.LIVE
