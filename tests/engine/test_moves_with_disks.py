"""Moves whose disks travel along: nothing disturbs them, somebody cancels, something dies; and the world afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import DISK, ID, SMALL, Stage, TickingHost, simulate, stage

from godwit.core.state import Phase
from godwit.engine.gather import prove_disks
from godwit.engine.parts import Parts
from godwit.errors import JournalError
from godwit.hosts.fake import Workload
from godwit.hosts.fakeguest import FakeGuest
from godwit.hosts.fakewatch import FakeWatcher
from godwit.model import OutcomeStatus, Permission, Policy, RunState
from godwit.ports import Completed
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from godwit.model import DiskCopy, Outcome

COMPLETED, FAILED, CANCELLED = OutcomeStatus.COMPLETED, OutcomeStatus.FAILED, OutcomeStatus.CANCELLED
WAY = (Phase.PREPARING, Phase.MIRRORING, Phase.PRECOPY, Phase.SWITCHOVER)


def apart(**options: object) -> Stage:
    """Two hosts that share nothing; the disk is on the first."""
    made = stage(**options)  # type: ignore[arg-type]
    made.world._files.clear()
    made.world.disks.newest.clear()
    made.world.add_file(DISK, ["one"], size=1 << 30)
    return made


async def assert_disks(scene: Stage, outcome: Outcome) -> None:
    """The target has the disk, whole and its own, where the guest is; else it has none."""
    await scene.assert_settled(outcome)
    there = scene.world.file(DISK, "two")
    assert (there is not None) is (outcome.status in {COMPLETED, OutcomeStatus.GUEST_CRASHED})
    assert scene.world.owned == {}
    assert scene.world.incomplete == set()
    assert scene.world.file(DISK, "one") is not None  # the old copy is never taken away
    for host in (scene.one, scene.two):
        for qemu in host.qemus.values():
            assert qemu.blocks.mirrors == {}
            assert qemu.blocks.disks_port is None


def moved(prepare: Callable[[Stage], object] = lambda _: None) -> tuple[Stage, Outcome]:
    async def scenario() -> tuple[Stage, Outcome]:
        made = apart()
        prepare(made)
        outcome = await made.move()
        await assert_disks(made, outcome)
        return made, outcome

    return simulate(scenario)


def test_a_whole_move_with_its_disk() -> None:
    scene, outcome = moved()
    assert outcome.status is COMPLETED
    phases = scene.phases()
    assert phases[phases.index(Phase.PREPARING) :] == [*WAY, Phase.COMMITTING, Phase.FINISHING, Phase.DONE]
    assert [finding.code for finding in outcome.findings] == ["disk-copied"]
    assert outcome.downtime.blackout_ms is not None
    assert outcome.disk_bytes == (1 << 30) // 16


@pytest.mark.parametrize(
    ("agent", "allows", "share", "said"),
    [
        (True, {Permission.TRIM}, 2, "32.0 MiB less to copy"),
        (True, set(), 1, ""),
        (False, {Permission.TRIM}, 1, "no guest agent answered"),
        (None, {Permission.TRIM}, 1, "no channel for a guest agent"),
    ],
)
def test_what_is_free_on_a_disk_is_given_back_before_it_travels(
    agent: bool | None,  # noqa: FBT001
    allows: set[Permission],
    share: int,
    said: str,
) -> None:
    async def scenario() -> None:
        scene = apart(workload=Workload(agent=agent), policy=Policy(allows=Policy().allows | allows))
        outcome = await scene.move()
        await assert_disks(scene, outcome)
        assert outcome.status is COMPLETED
        assert outcome.disk_bytes == (1 << 30) // 16 // share
        words = [str(entry.data.get("text", entry.data.get("found", ""))) for entry in await scene.journal.entries(ID)]
        assert any(said in one for one in words)

    simulate(scenario)


def test_a_guest_whose_disk_travels_is_slowed_down_although_it_might_go_over_without_one() -> None:
    async def scenario() -> None:
        load = Workload(256 * MIB, used=64 * MIB, hot_set=48 * MIB, dirty_rate=120 * MIB)
        scene = apart(workload=load, policy=Policy(allows=frozenset({Permission.THROTTLE, Permission.POSTCOPY})))
        outcome = await scene.move()
        await assert_disks(scene, outcome)
        assert outcome.status is COMPLETED
        lines = await scene.journal.entries(ID)
        assert "throttle" in {line.data["detail"]["action"] for line in lines if line.data.get("event") == "Decided"}  # type: ignore[index]
        assert [line.data["postcopy"] for line in lines if line.kind == "strategy"] == [False]

    simulate(scenario)


@pytest.mark.parametrize("phase", WAY)
@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_a_cancel_leaves_no_half_image(phase: Phase, delay: float) -> None:
    _, outcome = moved(lambda scene: scene.at(phase, scene.cancel, delay))
    assert outcome.status in {CANCELLED, COMPLETED}
    if phase is not Phase.SWITCHOVER:
        assert outcome.status is CANCELLED


@pytest.mark.parametrize("phase", WAY)
@pytest.mark.parametrize("delay", [0.0, 0.06])
def test_the_target_s_qemu_dies(phase: Phase, delay: float) -> None:
    def kill(scene: Stage) -> None:
        if "web" in scene.two.qemus:
            scene.world.kill("two", "web")

    scene, outcome = moved(lambda scene: scene.at(phase, lambda: kill(scene), delay))
    assert outcome.status in {FAILED, OutcomeStatus.GUEST_CRASHED} or phase is Phase.PREPARING
    if phase in {Phase.MIRRORING, Phase.PRECOPY}:
        assert outcome.status is FAILED
        assert scene.state_on(scene.one) is RunState.RUNNING


@pytest.mark.parametrize("phase", [*WAY, Phase.COMMITTING, Phase.FINISHING])
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.3])
def test_the_runner_dies(phase: Phase, delay: float) -> None:
    scene, outcome = moved(lambda scene: scene.at(phase, scene.died.set, delay))
    assert outcome.status in {COMPLETED, FAILED}
    if phase in {Phase.MIRRORING, Phase.COMMITTING, Phase.FINISHING}:
        assert outcome.status is COMPLETED, outcome.error
    assert outcome.disk_bytes in {0, (1 << 30) // 16} or outcome.status is FAILED
    assert scene.runners == 2 or scene.journal.states[-1].phase is Phase.DONE


def test_a_copy_that_breaks_off_leaves_the_guest_where_it_is() -> None:
    def break_off(scene: Stage) -> None:
        for mirror in list(scene.one.qemus["web"].blocks.mirrors.values()):
            mirror.finish("No space left on device")

    scene, outcome = moved(lambda scene: scene.at(Phase.PRECOPY, lambda: break_off(scene), 0.02))
    assert outcome.status is FAILED
    assert "disk0" in outcome.error
    assert "No space left on device" in outcome.error
    assert scene.state_on(scene.one) is RunState.RUNNING


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda scene: scene.world.add_file(DISK, ["two"]), "disk-exists"),
        (lambda scene: scene.world.fill_disk("two"), "disk-room"),
    ],
)
def test_what_keeps_a_disk_from_being_copied_is_found_before(prepare: Callable[[Stage], object], code: str) -> None:
    async def scenario() -> None:
        scene = apart()
        prepare(scene)
        outcome = await scene.move()
        assert outcome.status is OutcomeStatus.REFUSED
        assert outcome.findings[0].code in {code, "disk-not-shared"}
        assert scene.state_on(scene.one) is RunState.RUNNING

    simulate(scenario)


def test_a_disk_that_must_be_shared_is_not_copied() -> None:
    from godwit.model import DiskMode  # noqa: PLC0415

    async def scenario() -> None:
        scene = apart(policy=Policy(disks=DiskMode.SHARED))
        outcome = await scene.move()
        assert outcome.status is OutcomeStatus.REFUSED
        assert outcome.findings[0].code == "disk-missing"
        assert [line.data for line in await scene.journal.entries(ID) if line.kind == "mirror"] == []

    simulate(scenario)


def test_a_disk_may_be_called_anything() -> None:
    """A backing file is called after its disk, with a space between; a token is not called so."""

    async def scenario() -> None:
        scene = stage()
        guest = await scene.one.attach(scene.vm)
        facts = await guest.facts()
        (disk,) = facts.disks
        named = (disk, replace(disk, name=f"{disk.name} backing", backs=disk.name, read_only=True))
        parts = Parts(
            *(scene.spec, scene.vm, scene.one, scene.two, scene.journal, scene.inventory, scene.world.clock),
            watcher=FakeWatcher(scene.world, {}),
            epoch=1,
            requested=0.0,
            hypervisor=QemuHypervisor(),
            authority=scene.authority,
        )
        proofs = await prove_disks(parts, replace(facts, disks=named[1:]))
        assert [(proof.backs, proof.token_seen) for proof in proofs] == [(disk.name, True)]
        assert scene.world.tokens == {}

    simulate(scenario)


def test_what_a_ready_copy_leaves_over_goes_to_the_others() -> None:
    """Two disks of 64 and 256 MiB at 20 MiB/s: 16 s for both, not the 26 s that a half for each would take."""
    rate, other = 20 * MIB, "/images/data.raw"

    async def scenario() -> None:
        scene = apart(policy=Policy(bandwidth=rate))
        scene.world.add_file(other, ["one"], size=4 << 30)
        qemu = scene.one.qemus["web"]
        qemu.launch = replace(qemu.launch, argv=(*qemu.launch.argv, "-drive", f"file={other},format=raw"))
        outcome = await scene.move()
        await assert_disks(scene, outcome)
        assert outcome.status is COMPLETED
        mirrors = [line for line in await scene.journal.entries(ID) if line.kind == "mirror"]
        took = mirrors[-1].at - mirrors[0].at
        assert 320 * MIB / rate * 0.99 <= took <= 320 * MIB / rate * 1.1
        assert outcome.disk_bytes == 320 * MIB

    simulate(scenario)


@pytest.mark.parametrize(("disk_rate", "share"), [(6 * MIB, 14 * MIB), (0, 20 * MIB)])
def test_what_the_guest_writes_to_copied_disks_comes_out_of_memorys_share(disk_rate: int, share: int) -> None:
    """Both go over one link, of which 20 MiB/s are allowed."""

    async def scenario() -> None:
        scene = apart(workload=replace(SMALL, used=256 * MIB, disk_rate=disk_rate), policy=Policy(bandwidth=20 * MIB))
        seen: set[int] = set()
        scene.one.tick = lambda: noted(scene, seen)
        outcome = await scene.move()
        assert outcome.status is COMPLETED
        assert min(seen) == pytest.approx(share, rel=0.05)

    async def noted(scene: Stage, seen: set[int]) -> None:
        qemu = scene.one.qemus.get("web")
        if qemu is not None and qemu.stream is not None and qemu.migration == "active":
            seen.add(int(qemu.parameters["max-bandwidth"]))

    simulate(scenario)


def test_a_connection_that_is_lost_while_disks_are_copied_is_made_anew() -> None:
    scene, outcome = moved(lambda made: made.at(Phase.MIRRORING, made.world.drop_controller, delay=0.5))
    assert outcome.status is COMPLETED, outcome
    assert scene.runners == 1
    assert scene.phases().count(Phase.MIRRORING) == 1


def test_a_copy_that_cannot_be_cancelled_for_a_silent_host_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """QEMU waits for an answer from there until TCP has given up, and the job with it."""
    ended: list[str] = []
    told = asyncio.Event()
    cancel = FakeGuest.cancel_mirrors

    async def waits(self: FakeGuest, copies: Sequence[DiskCopy]) -> None:
        await told.wait()
        await cancel(self, copies)

    async def run(_: TickingHost, argv: Sequence[str], **_options: object) -> Completed:
        ended.append(" ".join(argv))
        told.set()
        return Completed(0, b"", b"")

    monkeypatch.setattr(FakeGuest, "cancel_mirrors", waits)
    monkeypatch.setattr(TickingHost, "run", run)
    _, outcome = moved(lambda made: made.at(Phase.MIRRORING, made.cancel, delay=0.5))
    assert outcome.status is CANCELLED
    assert outcome.leftovers == ()
    assert len(ended) == 1
    assert ended[0].startswith("ss --tcp --kill dst ")


def test_a_copy_that_gets_nothing_over_its_link_is_given_up() -> None:
    _, outcome = moved(lambda made: made.at(Phase.MIRRORING, lambda: made.world.cut("one", "two"), delay=0.5))
    assert outcome.status is FAILED
    assert "not a byte of a disk was copied" in outcome.error
    assert "migration link" in outcome.remedy


@pytest.mark.parametrize("failures", [1, 3])
def test_what_keeps_compared_disks_is_let_go_of_although_its_command_was_lost(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    scene, outcome = compared(monkeypatch, failures)
    assert outcome.status is COMPLETED
    there = scene.two.qemus["web"]
    assert there.blocks.frozen_port is None
    assert not there.blocks.frozen
    assert scene.world.owned == {}
    assert scene.journal.states[-1].leftovers == ()
    assert "not-thawed" not in [finding.code for finding in outcome.findings]


def test_what_keeps_compared_disks_is_named_where_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, outcome = compared(monkeypatch, failures=1000)
    assert outcome.status is COMPLETED
    assert scene.two.qemus["web"].blocks.frozen_port is not None
    (left,) = scene.journal.states[-1].leftovers
    assert "left on two" in left
    assert "nbd_server_stop" in left
    assert "not-thawed" in [finding.code for finding in outcome.findings]


def compared(monkeypatch: pytest.MonkeyPatch, failures: int) -> tuple[Stage, Outcome]:
    """Move a guest whose disks are compared, and lose the connection at so many commands to let go of them."""
    thaws, left = FakeGuest.thaw, [failures]

    async def losing(self: FakeGuest, copies: Sequence[DiskCopy]) -> None:
        if left[0]:
            left[0] -= 1
            self.lose("the connection was reset")
        await thaws(self, copies)

    async def scenario() -> tuple[Stage, Outcome]:
        monkeypatch.setattr(FakeGuest, "thaw", losing)
        scene = apart(policy=Policy(verify_disks=True))
        return scene, await scene.move()

    return simulate(scenario)


def test_disks_are_compared_when_the_journal_can_be_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    serves, left = FakeGuest.serve_frozen, [5]

    async def barred(self: FakeGuest, *where: object, **how: object) -> None:
        if left[0]:
            left[0] -= 1
            raise JournalError("the journal failed: the disk is full", remedy="make room")
        await serves(self, *where, **how)  # type: ignore[arg-type]

    async def scenario() -> None:
        monkeypatch.setattr(FakeGuest, "serve_frozen", barred)
        scene = apart(policy=Policy(verify_disks=True))
        outcome = await scene.move()
        assert outcome.status is COMPLETED
        assert outcome.comparison is not None
        assert outcome.comparison.equal
        assert left == [0]
        await assert_disks(scene, outcome)

    simulate(scenario)
