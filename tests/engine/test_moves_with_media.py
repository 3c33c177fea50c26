"""Moves of guests with files that they only read, and moves whose copied disks are compared: faults at any instant."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import DISK, ID, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.errors import HostError
from godwit.model import OutcomeStatus, Policy, RunState
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import Outcome

ISO = "/images/seed.iso"
SIZE = 512 * MIB
COMPLETED, FAILED, CANCELLED = OutcomeStatus.COMPLETED, OutcomeStatus.FAILED, OutcomeStatus.CANCELLED


def scene_with(*, verify: bool = False, shared: bool = False) -> Stage:
    """Two hosts and a guest with a file that it only reads, on the first; its disk is shared, or is not."""
    made = stage(policy=Policy(verify_disks=verify))
    if not shared:
        made.world._files.clear()
        made.world.disks.newest.clear()
        made.world.add_file(DISK, ["one"], size=1 << 30)
    made.world.add_file(ISO, ["one"], size=SIZE, content="seed")
    made.world.read_only.add(ISO)
    qemu = made.one.qemus["web"]
    qemu.launch = replace(qemu.launch, argv=(*qemu.launch.argv, "-cdrom", ISO))
    return made


async def assert_clean(scene: Stage, outcome: Outcome) -> None:
    """Nothing is under way, nothing is half there, and the target has the file where the guest is."""
    await scene.assert_settled(outcome)
    assert scene.world.owned == {}
    assert scene.world.incomplete == set()
    for host in (scene.one, scene.two):
        assert (host.takes, host.sends) == ({}, set())
        for qemu in host.qemus.values():
            assert (qemu.blocks.frozen, qemu.blocks.frozen_port) == (set(), None)
    there = scene.world.file(ISO, "two")
    assert (there is not None) is (outcome.status in {COMPLETED, OutcomeStatus.GUEST_CRASHED, OutcomeStatus.UNVERIFIED})
    assert there is None or there.content == "seed"
    assert not any(path.endswith("frozen") and files for path, files in scene.world._files.items())


def moved(prepare: Callable[[Stage], object] = lambda _: None, **options: bool) -> tuple[Stage, Outcome]:
    async def scenario() -> tuple[Stage, Outcome]:
        made = scene_with(**options)
        prepare(made)
        outcome = await made.move()
        await assert_clean(made, outcome)
        return made, outcome

    return simulate(scenario)


@pytest.mark.parametrize("shared", [False, True])
def test_a_medium_goes_before_the_target_starts(*, shared: bool) -> None:
    scene, outcome = moved(shared=shared)
    assert outcome.status is COMPLETED
    assert "disk-copied" in {finding.code for finding in outcome.findings}
    assert (Phase.MIRRORING in scene.phases()) is not shared
    assert {one.disk for one in outcome.allocations} == ({"disk1"} if shared else {"disk0", "disk1"})


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("verify", [False, True])
def test_a_cancel_while_it_is_copied(delay: float, *, verify: bool) -> None:
    _, outcome = moved(lambda scene: scene.at(Phase.PREPARING, scene.cancel, delay), verify=verify)
    assert outcome.status is CANCELLED


def test_what_is_left_of_a_copy_that_broke_off_is_told_of_until_the_way_back_has_removed_it() -> None:
    said: list[str] = []

    async def scenario() -> None:
        scene = scene_with()
        remove, tries = scene.two.remove_image, iter([True])

        async def once_refused(path: str, owner: str) -> None:
            if next(tries, False):
                raise HostError("the disk is read only")
            await remove(path, owner)

        scene.two.remove_image = once_refused  # type: ignore[method-assign]
        scene.at(Phase.PREPARING, scene.cancel, 0.3)
        outcome = await scene.move()
        await assert_clean(scene, outcome)
        assert (outcome.status, outcome.leftovers) == (CANCELLED, ())
        said.extend(str(line.data.get("text")) for line in await scene.journal.entries(ID) if line.kind == "note")

    simulate(scenario)
    assert f"{ISO} may be left on two, half copied: the disk is read only" in said


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.MIRRORING, Phase.PRECOPY, Phase.SWITCHOVER, Phase.FINISHING])
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_the_runner_dies(phase: Phase, delay: float) -> None:
    _, outcome = moved(lambda scene: scene.at(phase, scene.died.set, delay), verify=True)
    assert outcome.status in {COMPLETED, FAILED}
    if phase is Phase.FINISHING:
        assert outcome.comparison is not None
        assert outcome.comparison.equal is True


def test_a_medium_of_the_same_content_is_not_copied() -> None:
    scene, outcome = moved(lambda scene: scene.world.add_file(ISO, ["two"], size=SIZE, content="seed"))
    assert outcome.status is COMPLETED
    assert "disk-same" in {finding.code for finding in outcome.findings}
    assert "CopyMedia" not in str([state for state in scene.journal.states if state.media])


def test_a_medium_of_another_content_is_refused_with_both_digests() -> None:
    async def scenario() -> None:
        scene = scene_with()
        scene.world.add_file(ISO, ["two"], size=SIZE, content="other")
        outcome = await scene.move()
        assert outcome.status is OutcomeStatus.REFUSED
        assert f"{SIZE} seed here, {SIZE} other there" in outcome.error
        assert scene.state_on(scene.one) is RunState.RUNNING

    simulate(scenario)


def test_disks_are_compared_while_the_guest_runs_on_the_target() -> None:
    _, outcome = moved(verify=True)
    assert outcome.status is COMPLETED
    assert outcome.comparison is not None
    assert (outcome.comparison.equal, outcome.comparison.bytes) == (True, 1 << 30)


def test_nothing_is_compared_where_nobody_asked() -> None:
    assert moved()[1].comparison is None


def test_a_difference_is_no_success_and_keeps_the_guest_where_it_runs() -> None:
    scene, outcome = moved(
        lambda scene: scene.world.differing.update({DISK: "Content mismatch at offset 65536!"}), verify=True
    )
    assert outcome.status is OutcomeStatus.UNVERIFIED
    assert "disk0" in outcome.error
    assert "offset 65536" in outcome.error
    assert "do not remove" in outcome.remedy
    assert scene.state_on(scene.two) is RunState.RUNNING


def test_what_could_not_be_compared_is_no_success() -> None:
    _, outcome = moved(lambda scene: scene.at(Phase.FINISHING, lambda: scene.world.cut("one", "two")), verify=True)
    assert outcome.status is OutcomeStatus.UNVERIFIED
    assert outcome.comparison is not None
    assert outcome.comparison.equal is None
    assert "could not be compared" in outcome.error


def test_a_target_that_cannot_keep_its_disk_is_no_reason_to_lose_the_guest() -> None:
    scene, outcome = moved(lambda scene: scene.world.refuse("two", "transaction"), verify=True)
    assert outcome.status is FAILED
    assert scene.state_on(scene.one) is RunState.RUNNING


def test_a_guest_that_dies_while_it_is_compared() -> None:
    _, outcome = moved(
        lambda scene: scene.at(Phase.FINISHING, lambda: scene.world.kill("two", "web"), 0.01), verify=True
    )
    assert outcome.status in {OutcomeStatus.GUEST_CRASHED, OutcomeStatus.UNVERIFIED}


URL = "nbd://198.51.100.9:10809/web"


def behind_an_address(content: str = "web", url: str = URL) -> Stage:
    """A guest whose disk is served at an address; the target gets what has that content from it."""
    made = stage()
    made.world._files.clear()
    made.world.disks.newest.clear()
    made.world.add_file(url, ["one"], content="web")
    if content:
        made.world.add_file(url, ["two"], content=content)
    qemu = made.one.qemus["web"]
    qemu.launch = replace(qemu.launch, argv=("qemu-system-x86_64", "-drive", f"file={url},format=raw"))
    return made


@pytest.mark.parametrize(
    ("content", "url", "code"),
    [
        ("web", URL, ""),
        ("other", URL, "disk-differs"),
        ("", URL, "disk-unproven"),
        ("web", "nbd://127.0.0.1:10809/web", "disk-unreachable"),
        ("web", "nbd+unix:///web?socket", "disk-unreachable"),
    ],
)
def test_a_disk_behind_an_address_is_shared_where_both_get_the_same(content: str, url: str, code: str) -> None:
    async def scenario() -> None:
        scene = behind_an_address(content, url)
        outcome = await scene.move()
        assert [finding.code for finding in outcome.findings if finding.severity == "block"] == [code] * bool(code)
        assert outcome.status is (OutcomeStatus.REFUSED if code else COMPLETED)
        assert Phase.MIRRORING not in scene.phases()

    simulate(scenario)
