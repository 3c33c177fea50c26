"""A link is cut without a sound: before, during and at the switchover; it heals, or it never does."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import pytest
from labtools import CRAWL, GONE
from labtraps import Trap
from labwaits import until

from godwit.lab import plan as names
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from labmoves import Move
    from labtools import Ground
    from labtraps import Traps

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

SWITCHOVER_SILENCE: Final = 10.0
"""Seconds that clients may wait for a guest whose switchover hangs: the patience of the switchover and the way back."""


def cutting(ground: Ground, machine: str) -> str:
    """Return the shell line that cuts a host's migration link, quick enough for the middle of a switchover."""
    number = ground.lab.plan
    return f"ip -netns {number.switch_namespace} link set dev {names.migration_port(machine)} nomaster\n"


async def held_before_the_stream(ground: Ground, there: str, *options: str, cut: str) -> tuple[Move, Traps]:
    """Begin a move whose migration link is cut at the instant at which the source stops."""
    traps = ground.lay(Trap("hold", "precopy"), Trap("run", "switchover", "before"))
    move = await ground.begin(there, *options, traps=traps)
    await until(traps.sprung, "the target listens")
    traps.runs(cut, 1)
    return move, traps


async def test_cut_before_the_move_it_is_refused_and_nothing_was_changed(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.lab.cut(there, "migration")
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there))
        assert ran.status == 3
        assert "migration address" in ran.err
        assert "mend:" in ran.err
    await ground.assert_settled(here)


@pytest.mark.long
async def test_cut_in_precopy_and_healed_after_two_seconds_it_goes_on(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        move = await (await ground.begin(there)).streams(1)
        ground.lab.cut(there, "migration")
        await asyncio.sleep(2)
        ground.lab.heal(there, "migration")
        ground.lab.set_rate(None)
        assert (await move.outcome()).status is OutcomeStatus.COMPLETED
    await ground.assert_settled(there)


@pytest.mark.long  # the matrix has it with less patience
async def test_cut_in_precopy_for_good_the_guest_stays(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client() as ticks:
        move = await (await ground.begin(there)).streams(1)
        ground.lab.cut(there, "migration")
        began = time.monotonic()
        outcome = await move.outcome()
        assert time.monotonic() - began < 30
    assert (outcome.status, outcome.owner) == (OutcomeStatus.FAILED, Owner.SOURCE)
    assert "not a byte was sent" in outcome.error
    assert "migration link" in outcome.remedy
    assert ticks.longest_silence < 2
    await ground.assert_settled(here)


@pytest.mark.long
async def test_cut_at_the_switchover_for_good_the_guest_goes_on_at_the_source(
    ground: Ground, figure: Callable[[str, object], None]
) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(200_000_000)
    async with ground.client() as ticks, ground.dirtying("8M", "16M"):
        move, traps = await held_before_the_stream(ground, there, "--qemu-defaults", cut=cutting(ground, there))
        traps.release()
        outcome = await move.outcome()
    assert traps.sprung(1)
    figure("silence_s", round(ticks.longest_silence, 2))
    assert (outcome.status, outcome.owner) == (OutcomeStatus.FAILED, Owner.SOURCE)
    await ground.assert_settled(here)
    assert ticks.longest_silence < SWITCHOVER_SILENCE


async def test_cut_at_the_switchover_and_healed_soon_the_guest_runs_on_one_side(
    ground: Ground, figure: Callable[[str, object], None]
) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(200_000_000)
    async with ground.client() as ticks, ground.dirtying("8M", "16M"):
        move, traps = await held_before_the_stream(ground, there, "--qemu-defaults", cut=cutting(ground, there))
        traps.release()
        await until(lambda: traps.done(1), "the switchover")
        ground.lab.heal(there, "migration")
        outcome = await move.outcome()
    figure("silence_s", round(ticks.longest_silence, 2))
    assert outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}
    await ground.assert_settled(there if outcome.status is OutcomeStatus.COMPLETED else here)
    assert ticks.longest_silence < SWITCHOVER_SILENCE


@pytest.mark.long
async def test_the_targets_management_link_is_cut_the_guest_stays_and_the_leftover_is_named(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        move = await (await ground.begin(there)).streams(1)
        ground.lab.cut(there, "management")
        outcome = await move.outcome(90)
        assert (outcome.status, outcome.owner) == (OutcomeStatus.FAILED, Owner.SOURCE)
        assert ground.run_state(await ground.qemu(here)) == "running"
        left = ground.qemus()[there]
        assert all(ground.run_state(one.pid) != "running" for one in left)
        state = await move.state()
        assert not left or any("paused copy" in words for words in state.leftovers)
        # What was left does not stand in the way of the next move.
        ground.lab.heal(there, "management")
        ground.lab.set_rate(None)
        again = await ground.godwit("migrate", ground.name, ground.host(there))
        assert again.status == 0, again.err
    await ground.assert_settled(there)


@pytest.mark.long
async def test_the_sources_management_link_is_cut_and_heals_the_move_goes_on(ground: Ground) -> None:
    """The guest's users are cut off with it; their connection survives."""
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        move = await (await ground.begin(there)).streams(1)
        ground.lab.cut(here, "management")
        await asyncio.sleep(6)
        assert (await move.state()).owner is Owner.SOURCE
        ground.lab.heal(here, "management")
        ground.lab.set_rate(None)
        outcome = await move.outcome(90)
        assert outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}
    await ground.assert_settled(there if outcome.status is OutcomeStatus.COMPLETED else here)


@pytest.mark.long
async def test_the_source_falls_silent_in_the_switchover_and_comes_back(ground: Ground) -> None:
    """Whether it handed everything over is not known meanwhile, so nobody is told to run; then one side is."""
    here, there = await ground.whereabouts()
    traps = ground.lay(Trap("hold", "precopy"), Trap("run", "switchover", "before"))
    plan = ground.lab.plan
    async with ground.client():
        move = await ground.begin(there, traps=traps)
        await until(traps.sprung, "the target listens")
        traps.runs(f"ip -netns {plan.switch_namespace} link set dev {names.switch_port(here)} nomaster\n", 1)
        traps.release()
        await until(lambda: traps.done(1), "the switchover")
        await asyncio.sleep(8)
        running = [
            one.pid for qemus in ground.qemus().values() for one in qemus if ground.run_state(one.pid) == "running"
        ]
        assert len(running) <= 1
        ground.lab.heal(here, "management")
        outcome = await move.outcome(90)
        assert outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}
    machine = there if outcome.status is OutcomeStatus.COMPLETED else here
    assert ground.run_state(await ground.qemu(machine)) == "running"
    states = {one.pid: ground.run_state(one.pid) for qemus in ground.qemus().values() for one in qemus}
    assert list(states.values()).count("running") == 1, states
    others = [pid for pid, state in states.items() if state not in {"running", GONE}]
    # A host that had just come back may not have answered in time: what is left there stands still, and is told.
    assert not others or outcome.leftovers, (await move.state(), others)
