"""Out of LIMBO: by a person's word, and by the proof that a silent host is off."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from stage import ID, Stage, simulate, stage

from godwit.core.fencing import VALID
from godwit.core.state import Phase
from godwit.engine.engine import WORD_VALID
from godwit.errors import FenceError
from godwit.model import FenceCommand, FenceProof, HostRecord, OutcomeStatus, Owner, RunState, Side, Word
from godwit.ports import Power

if TYPE_CHECKING:
    from godwit.core.state import State
    from godwit.model import Outcome


@dataclass
class Device:
    """Cuts the power of simulated hosts."""

    scene: Stage
    works: bool = True
    cuts: list[str] = field(default_factory=list)

    async def power(self, record: HostRecord) -> Power:
        return Power(off=self.scene.world.hosts[record.name].crashed, said="the device says so")

    async def cut(self, record: HostRecord) -> Power:
        self.cuts.append(record.name)
        if not self.works:
            raise FenceError("the device is gone")
        self.scene.world.crash_host(record.name)
        return Power(off=True, said="the device says so")


async def said(scene: Stage, owner: Side, *, ago: float = 0.0) -> Outcome:
    """Let a person decide, and a runner hear it."""
    await scene.journal.decisions.put_word(ID, Word(owner, "anna", scene.world.clock.now() - ago))
    return await scene.go_on()


async def in_limbo(lost: Side) -> Stage:
    """Return a migration whose runner died behind the armed door, and then the process of one side."""
    scene = stage()

    async def hook(state: State) -> None:
        if state.phase is Phase.SWITCHOVER and scene.runners == 1:
            await scene.die()

    scene.journal.after = hook
    await scene.begin()
    assert await scene.runner() is None

    def handed_over() -> bool:
        return (scene.state_on(scene.one), scene.state_on(scene.two)) == (RunState.POSTMIGRATE, RunState.PAUSED)

    assert await scene.world.until(handed_over, 20)
    scene.world.kill(scene.one.name if lost is Side.SOURCE else scene.two.name, "web")
    outcome = await scene.go_on()
    assert outcome.status is OutcomeStatus.LIMBO
    return scene


@pytest.mark.parametrize(
    ("lost", "owner", "status", "runs"),
    [
        (Side.SOURCE, Side.TARGET, OutcomeStatus.COMPLETED, Owner.TARGET),
        (Side.SOURCE, Side.SOURCE, OutcomeStatus.FAILED, None),
        (Side.TARGET, Side.SOURCE, OutcomeStatus.FAILED, Owner.SOURCE),
        (Side.TARGET, Side.TARGET, OutcomeStatus.GUEST_CRASHED, None),
    ],
)
def test_a_person_decides_what_nobody_can_see(
    lost: Side, owner: Side, status: OutcomeStatus, runs: Owner | None
) -> None:
    async def scenario() -> None:
        scene = await in_limbo(lost)
        outcome = await said(scene, owner)
        assert (outcome.status, outcome.owner.value) == (status, owner.value)
        where = {Owner.SOURCE: [scene.one.name], Owner.TARGET: [scene.two.name], None: []}[runs]
        assert scene.world.executing("web") == where
        scene.assert_lawful()
        story = await scene.journal.entries(ID)
        assert [line.data["detail"] for line in story if line.data.get("event") == "Resolved"] == [
            {"owner": owner.value, "by": "anna"}
        ]

    simulate(scenario)


def test_a_word_is_heard_by_a_runner_that_waits_for_a_silent_host() -> None:
    async def scenario() -> None:
        scene = await in_limbo(Side.TARGET)
        scene.world.crash_host(scene.two.name)
        looking = asyncio.create_task(scene.go_on())
        await asyncio.sleep(8)
        assert not looking.done()
        await scene.journal.decisions.put_word(ID, Word(Side.SOURCE, "anna", scene.world.clock.now()))
        outcome = await looking
        assert outcome.status is OutcomeStatus.FAILED
        assert scene.world.executing("web") == [scene.one.name]
        assert any("paused copy of web may be left" in left for left in outcome.leftovers)

    simulate(scenario)


def test_a_word_that_is_old_is_nobody_s() -> None:
    async def scenario() -> None:
        scene = await in_limbo(Side.TARGET)
        outcome = await said(scene, Side.SOURCE, ago=WORD_VALID + 1)
        assert outcome.status is OutcomeStatus.LIMBO
        assert scene.world.executing("web") == []

    simulate(scenario)


def test_a_word_against_the_evidence_is_refused_and_forgotten() -> None:
    async def scenario() -> None:
        scene = await in_limbo(Side.TARGET)
        scene.world.crash_host(scene.two.name)
        guest = await scene.one.attach(scene.vm)
        await guest.resume()  # by hand, before the word is heard
        await guest.close()
        outcome = await said(scene, Side.TARGET)
        assert outcome.status is OutcomeStatus.LIMBO
        assert (
            "anna gave the guest to the target, but the guest runs on the source: end that copy first" in outcome.error
        )
        assert scene.world.executing("web") == [scene.one.name]
        assert (await scene.journal.load(ID))[1].resolution is None

    simulate(scenario)


async def silent_target() -> Stage:
    """Return a migration behind an armed door whose source took its guest back, and whose target's host is silent."""
    scene = stage()

    async def hook(state: State) -> None:
        if state.phase is Phase.SWITCHOVER and scene.runners == 1:
            scene.world.kill(scene.two.name, "web")
            await scene.die()

    scene.journal.after = hook
    await scene.begin()
    assert await scene.runner() is None
    assert await scene.world.until(lambda: scene.state_on(scene.one) is RunState.RUNNING, 20)
    scene.world.cut(scene.two.name)
    return scene


def test_a_silent_host_that_is_proven_to_be_off_has_no_guest() -> None:
    async def scenario() -> None:
        scene = await silent_target()
        assert (await scene.go_on()).status is OutcomeStatus.LIMBO
        proof = FenceProof(scene.two.name, scene.world.clock.now(), "the device says so", "anna")
        await scene.journal.decisions.put_proof(proof)
        outcome = await scene.go_on()
        assert outcome.status is OutcomeStatus.FAILED
        assert outcome.leftovers == ()
        assert scene.world.executing("web") == [scene.one.name]
        observed = [
            line.data["detail"] for line in await scene.journal.entries(ID) if line.data.get("event") == "Observed"
        ]
        assert "proven to be off: the device says so" in str(observed[-1])

    simulate(scenario)


def test_a_proof_counts_for_a_while_only() -> None:
    async def scenario() -> None:
        scene = await silent_target()
        proof = FenceProof(scene.two.name, scene.world.clock.now() - VALID - 1, "the device says so", "anna")
        await scene.journal.decisions.put_proof(proof)
        assert (await scene.go_on()).status is OutcomeStatus.LIMBO

    simulate(scenario)


def test_a_proof_is_forgotten_when_the_host_answers() -> None:
    async def scenario() -> None:
        scene = await silent_target()
        assert (await scene.go_on()).status is OutcomeStatus.LIMBO
        await scene.journal.decisions.put_proof(FenceProof(scene.two.name, scene.world.clock.now(), "said", "anna"))
        scene.world.heal(scene.two.name)
        await asyncio.sleep(1)
        assert (await scene.go_on()).status is OutcomeStatus.FAILED
        assert await scene.journal.decisions.proof(scene.two.name) is None

    simulate(scenario)


FENCED = FenceCommand(("off",), ("status",))


@pytest.mark.parametrize("automatic", [True, False])
def test_power_is_cut_without_a_person_only_where_the_record_permits_it(*, automatic: bool) -> None:
    async def scenario() -> None:
        scene = await silent_target()
        device = Device(scene)
        scene.fencer = device
        record = HostRecord(scene.two.name, "ssh://two", fence=FENCED, fence_automatic=automatic)
        scene.records = {Side.TARGET: record}
        outcome = await scene.go_on()
        assert device.cuts == ([scene.two.name] if automatic else [])
        assert outcome.status is (OutcomeStatus.FAILED if automatic else OutcomeStatus.LIMBO)
        told = [line.data["text"] for line in await scene.journal.entries(ID) if line.kind == "fence"]
        assert len(told) == (2 if automatic else 0)

    simulate(scenario)


def test_no_power_is_cut_where_that_would_decide_nothing() -> None:
    async def scenario() -> None:
        scene = await in_limbo(Side.TARGET)  # that the target is gone is known; whether it ran is not
        scene.world.crash_host(scene.two.name)
        device = Device(scene)
        scene.fencer = device
        scene.records = {Side.TARGET: HostRecord(scene.two.name, "ssh://two", fence=FENCED, fence_automatic=True)}
        assert (await scene.go_on()).status is OutcomeStatus.LIMBO
        assert device.cuts == []

    simulate(scenario)


def test_a_device_that_fails_leaves_it_at_limbo() -> None:
    async def scenario() -> None:
        scene = await silent_target()
        device = Device(scene, works=False)
        scene.fencer = device
        record = HostRecord(scene.two.name, "ssh://two", fence=FENCED, fence_automatic=True)
        scene.records = {Side.TARGET: record, Side.SOURCE: replace(record, name=scene.one.name)}
        assert (await scene.go_on()).status is OutcomeStatus.LIMBO
        assert device.cuts == [scene.two.name]
        told = [line.data["text"] for line in await scene.journal.entries(ID) if line.kind == "fence"]
        assert "the device is gone" in str(told[-1])

    simulate(scenario)
