"""A connection is tried as a move would make it; where pings let one doubt it, before a move, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stage import DISK, Stage, simulate, stage

from godwit.core.preflight import check
from godwit.engine.gather import gather
from godwit.engine.parts import Parts
from godwit.errors import HostError
from godwit.hosts.fakewatch import FakeWatcher
from godwit.model import OutcomeStatus, Policy, TrialEnd
from godwit.qemu.hypervisor import QemuHypervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.core.preflight import Evidence
    from godwit.model import Pair

BLACK_HOLE = 1400


async def evidence(scene: Stage, *, trial: bool = True, measure: bool = False) -> Evidence:
    """Look at both hosts, and see that nothing is left of it."""
    parts = Parts(
        spec=scene.spec,
        vm=scene.vm,
        source=scene.one,
        target=scene.two,
        journal=scene.journal,
        inventory=scene.inventory,
        clock=scene.world.clock,
        watcher=FakeWatcher(scene.world, {}, 0.0),
        epoch=0,
        requested=0.0,
        hypervisor=QemuHypervisor(),
        authority=scene.authority,
    )
    guest = await scene.one.attach(scene.vm)
    try:
        return await gather(parts, guest, trial=trial, measure=measure)
    finally:
        await guest.close()
        assert not scene.two.trials
        assert not scene.one.credentials


def shrink(scene: Stage) -> None:
    scene.world.link("one", "two").mtu = BLACK_HOLE


def slow_down(scene: Stage) -> None:
    scene.world.link("one", "two").bandwidth = 30_000.0


def stop_clock(scene: Stage) -> None:
    scene.one._clock_offset = 40 * 86400.0


def cannot_serve(scene: Stage) -> None:
    async def serve(_owner: str, _address: str, _port: int, *, pair: Pair | None, measure: bool) -> None:
        del pair, measure
        raise HostError("there is no qemu-nbd")

    scene.two.serve_trial = serve  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize(
    ("prepare", "end"),
    [
        (lambda _: None, TrialEnd.WORKS),
        (slow_down, TrialEnd.WORKS),
        (shrink, TrialEnd.STALLED),
        (stop_clock, TrialEnd.REFUSED),
        (cannot_serve, TrialEnd.UNTRIED),
    ],
)
@pytest.mark.parametrize("plaintext", [False, True])
def test_what_becomes_of_a_trial(prepare: Callable[[Stage], object], end: TrialEnd, *, plaintext: bool) -> None:
    async def scenario() -> None:
        scene = stage(policy=Policy(plaintext=plaintext))
        prepare(scene)
        found = (await evidence(scene)).trial
        assert found is not None
        assert found.end is (TrialEnd.WORKS if plaintext and end is TrialEnd.REFUSED else end)

    simulate(scenario)


def test_nothing_is_tried_before_a_move_that_nothing_speaks_against() -> None:
    async def scenario() -> None:
        scene = stage()
        assert (await evidence(scene, trial=False)).trial is None
        shrink(scene)
        found = (await evidence(scene, trial=False)).trial
        assert found is not None
        assert found.end is TrialEnd.STALLED

    simulate(scenario)


@pytest.mark.parametrize(("times", "end"), [(1, TrialEnd.WORKS), (9, TrialEnd.UNTRIED)])
def test_a_port_that_somebody_takes_meanwhile_is_another_s(times: int, end: TrialEnd) -> None:
    async def scenario() -> None:
        scene, asked = stage(), list[int]()
        serve = scene.two.serve_trial

        async def taken(owner: str, address: str, port: int, *, pair: Pair | None, measure: bool) -> None:
            asked.append(port)
            if len(asked) <= times:
                scene.two.trials["another"] = (port, None)
            try:
                await serve(owner, address, port, pair=pair, measure=measure)
            finally:
                scene.two.trials.pop("another", None)

        scene.two.serve_trial = taken  # type: ignore[method-assign]
        found = (await evidence(scene)).trial
        assert found is not None
        assert found.end is end
        assert len(set(asked)) == min(times + 1, 3)
        if end is TrialEnd.UNTRIED:
            assert "already in use" in found.words
            assert [one.mend for one in check(await evidence(scene)) if one.code == "link-untried"] == [
                "check again; a move finds it out, too, and goes back"
            ]

    simulate(scenario)


def test_a_burst_is_sent_only_where_it_is_asked_for() -> None:
    async def scenario() -> None:
        for measure in (False, True):
            found = (await evidence(stage(), measure=measure)).trial
            assert found is not None
            assert (found.bandwidth > 0) is measure

    simulate(scenario)


def test_a_move_into_a_black_hole_is_refused_before_anything_is_changed() -> None:
    async def scenario() -> None:
        scene = stage()
        shrink(scene)
        outcome = await scene.move()
        assert outcome.status is OutcomeStatus.REFUSED
        assert [one.code for one in outcome.findings if one.severity == "block"] == ["path-stalls"]
        await scene.assert_settled(outcome)

    simulate(scenario)


def test_a_disk_that_the_target_may_not_open_is_found_before_it_is_too_late() -> None:
    async def scenario() -> None:
        scene = stage()
        scene.world.locked.add(("two", DISK))
        assert [disk.forbidden for disk in (await evidence(scene)).disks] == ["Permission denied"]
        outcome = await scene.move()
        assert outcome.status is OutcomeStatus.REFUSED

    simulate(scenario)


def test_a_target_without_a_free_port_is_a_finding_and_no_error() -> None:
    async def scenario() -> None:
        scene = stage()
        scene.two.no_ports = True
        found = await evidence(scene)
        assert not found.ports_left
        assert found.trial is None
        outcome = await scene.move()
        assert "ports-taken" in [one.code for one in outcome.findings]
        assert outcome.status is OutcomeStatus.REFUSED

    simulate(scenario)
