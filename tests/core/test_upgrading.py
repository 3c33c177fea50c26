"""A guest whose QEMU is replaced on its host: what preflight says, where the processes meet, what is set."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_preflight import GOOD, Change, guest, host, target, whole

from godwit.core.preflight import blocking, check_upgrade
from godwit.core.upgrading import copy_uri, in_place_uri, names, negotiated_in_place, path_in_place, taker_path
from godwit.model import Features, GuestView, Launch, QemuFacts, RunState, Severity, Side, Spec, StrayImage, Upgrade, Vm

BEFORE = Vm("web", "one", Launch(("q",)), "/run/web/control", sibling="/run/web/control.godwit-2")
AFTER = replace(BEFORE, control="/run/web/control.godwit-2", sibling="/run/web/control")
ONE_HOST = replace(GOOD, source=host("one"), target=host("one"), disks=())
OLDER = QemuFacts("/opt/q", (9, 2, 0), ("pc-q35-10.0",))
BLOCKERS = ("Memory region pc.ram is not compatible with CPR.", "Memory region pc.bios is not.")


def test_memory_that_can_be_taken_is() -> None:
    findings = check_upgrade(ONE_HOST)
    assert [f.code for f in findings] == ["upgrade", "upgrade-in-place"]
    assert {f.severity for f in findings} == {Severity.INFO}
    assert "QEMU 10.0.2 now, 10.0.2 afterwards" in findings[0].found


def test_why_memory_is_copied_is_told() -> None:
    findings = check_upgrade(replace(ONE_HOST, hindrances=BLOCKERS))
    assert [f.code for f in findings] == ["upgrade-by-copy", "upgrade"]
    assert BLOCKERS[0] in findings[0].found
    assert "1 more reasons" in findings[0].found
    assert not blocking(findings)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (target(qemu=None, notes=("there is no /opt/q",)), "qemu-missing"),
        (target(qemu=QemuFacts("/opt/q", (10, 0, 2), ("pc-q35-9.2",))), "machine-type"),
        (target(accelerators=("tcg",)), "accelerator"),
        (guest(run_state=RunState.PAUSED), "not-running"),
        (guest(refusals=("-snapshot: what was written",)), "cannot-be-repeated"),
        (guest(blockers=("nvme",)), "blocked-by-qemu"),
        (guest(libvirt=True), "libvirt-owned"),
        (guest(stray_images=(StrayImage("/srv/a", "a"),)), "image-not-found-again"),
        (whole(on_target=GuestView(RunState.RUNNING, pid=9)), "name-taken"),
        (whole(on_target=GuestView(RunState.UNREACHABLE, detail="?")), "name-unknown"),
        (lambda e: replace(e, hindrances=BLOCKERS, target=replace(e.target, memory_available=1)), "memory-short"),
    ],
)
def test_what_blocks_is_named_with_the_mend(change: Change, code: str) -> None:
    found = blocking(check_upgrade(change(ONE_HOST)))
    assert [f.code for f in found] == [code]
    assert found[0].mend


def test_a_qemu_that_is_missing_is_named() -> None:
    (found,) = blocking(check_upgrade(target(qemu=None, notes=("there is no /opt/q",))(ONE_HOST)))
    assert "there is no /opt/q" in found.found


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (target(memory_available=1), set()),
        (whole(reachable=False, monitor_shared=True), set()),
        (target(can_shorten_send_queue=False), set()),
        (target(qemu=OLDER), {"qemu-older"}),
    ],
    ids=["no room is needed for a second copy", "no way is needed", "no send queue is there", "an older QEMU"],
)
def test_what_does_not_matter_on_one_host_is_not_said(change: Change, codes: set[str]) -> None:
    findings = check_upgrade(change(ONE_HOST))
    assert not blocking(findings)
    assert {f.code for f in findings if f.severity is Severity.WARN} == codes


def test_each_side_has_its_names_and_an_ordinary_move_has_one() -> None:
    spec = Spec("web-1", "web", "one", "one", upgrade=Upgrade(BEFORE, AFTER))
    assert names(spec, Side.SOURCE, AFTER) == BEFORE
    assert names(spec, Side.TARGET, BEFORE) == AFTER
    assert names(replace(spec, upgrade=None), Side.TARGET, BEFORE) == BEFORE


def test_the_uri_says_how_memory_gets_across() -> None:
    assert path_in_place(in_place_uri(AFTER)) == taker_path(AFTER) == "/run/web/control.godwit-2.take"
    assert copy_uri(AFTER) == "unix:/run/web/control.godwit-2.stream"
    assert path_in_place(copy_uri(AFTER)) is None
    assert path_in_place("tcp:198.18.0.1:4") is None


def test_the_old_qemu_gets_what_drives_a_switchover_and_nothing_that_changes_the_stream() -> None:
    source = Features(
        frozenset(), frozenset({"events", "return-path", "xbzrle", "pause-before-switchover"}), frozenset()
    )
    agreed = negotiated_in_place(source)
    assert agreed.source == {"events": True, "return-path": True, "xbzrle": False, "pause-before-switchover": False}
    assert (agreed.target, agreed.lacking) == ({}, ())
    assert negotiated_in_place(replace(source, capabilities=frozenset({"events"}))).lacking == (
        "return-path: unknown to the source",
    )
