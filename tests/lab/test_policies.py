"""Moves that take more than patience: a guest is slowed down, its pages are compressed, or it is paused at the end.

A writer in the guest looks after every page that it has ever written.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from godwit.model import OutcomeStatus, Sending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from labmoves import Move
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

LINK: Final = 160_000_000
FAST: Final = "--rate 30M --set 16M"
"""Whole pages, faster than that link carries them."""


@contextmanager
def writing(ground: Ground, options: str) -> Iterator[None]:
    """Let the guest write, and see at the end that all that it wrote is still there."""
    ground.lab.set_rate(LINK)
    ground.ssh(f"memwriter {options} --verify >/run/log/policies 2>&1 & sleep 3")
    try:
        yield
        said = ground.ssh("cat /run/log/policies; pidof memwriter >/dev/null || echo CORRUPT: it ended")
        assert "CORRUPT" not in said
    finally:
        ground.lab.set_rate(None)
        ground.ssh("killall memwriter || true")


async def decisions(move: Move) -> list[str]:
    details: list[Any] = [line.data["detail"] for line in await move.entries() if line.data.get("event") == "Decided"]
    return [str(detail["action"]) for detail in details]


async def noted(move: Move) -> str:
    return "\n".join(str(line.data.get("text")) for line in await move.entries())


async def strategy(move: Move) -> dict[str, object]:
    return next(line.data for line in await move.entries() if line.kind == "strategy")


@pytest.mark.long
async def test_a_guest_that_writes_too_fast_is_slowed_down_by_what_its_passes_tell(
    ground: Ground, figure: Callable[[str, object], None]
) -> None:
    """Nothing is known of it: the decision falls on the way, and QEMU does as it was told."""
    _, there = await ground.whereabouts()
    with writing(ground, FAST):
        async with ground.client():
            move = await ground.begin(there, "--probe", ground.address, "--deadline", "90s")
            outcome = await move.outcome(100)
        assert outcome.status is OutcomeStatus.COMPLETED, outcome
        assert "throttle" in await decisions(move)
        samples = [line.data for line in await move.entries() if line.kind == "sample"]
        assert max(int(str(sample["throttle"])) for sample in samples) > 1
        figure("client_gap_ms", outcome.downtime.client_gap_ms)
        await ground.assert_settled(there)


@pytest.mark.long
async def test_a_guest_that_stops_writing_while_it_is_waited_for_is_moved_then(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    with writing(ground, FAST):
        words = ("forecast", ground.name, ground.host(there), "--profile", "--link", "160mbit")
        assert (await ground.godwit(*words, deadline=90)).status == 0
        move = await ground.begin(there, "--wait", "90s")
        for _ in range(200):
            if "waits for a quieter moment" in await noted(move):
                break
            await asyncio.sleep(0.2)
        assert (await ground.whereabouts())[0] == here
        ground.ssh("killall -STOP memwriter")
        outcome = await move.outcome(100)
        ground.ssh("killall -CONT memwriter")
        assert outcome.status is OutcomeStatus.COMPLETED, outcome
        assert (await strategy(move))["throttle"] == 0
        assert "a quieter moment after" in await noted(move)
        await ground.assert_settled(there)


@pytest.mark.long
async def test_a_guest_that_may_only_be_paused_is_paused_at_the_end(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    with writing(ground, FAST):
        move = await ground.begin(there, "--forbid", "throttle", "--allow", "pause", "--max-downtime", "50ms")
        outcome = await move.outcome(100)
        assert outcome.status is OutcomeStatus.COMPLETED, outcome
        assert (await decisions(move))[-1] == "pause"
        assert outcome.downtime.blackout_ms is not None
        assert outcome.downtime.blackout_ms > 50
        await ground.assert_settled(there)


@pytest.mark.long
async def test_pages_that_compress_travel_compressed_and_arrive_whole(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    with writing(ground, "--rate 2M --set 16M --pattern third"):
        words = ("forecast", ground.name, ground.host(there), "--profile", "--link", "160mbit")
        forecast = await ground.godwit(*words, deadline=90)
        assert forecast.status == 0, forecast
        for target in (there, here):
            # Of a third of the bytes: how long a client waits, which goes first elsewhere, differs by what else runs.
            move = await ground.begin(target, "--policy", "fast")
            outcome = await move.outcome(60)
            assert outcome.status is OutcomeStatus.COMPLETED, outcome
            assert (await strategy(move))["sending"] in {Sending.ZSTD, Sending.ZLIB}
        await ground.assert_settled(here)


async def test_what_cannot_end_is_refused_before_anything_is_touched(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    with writing(ground, "--rate 60M --set 48M"):
        words = ("forecast", ground.name, ground.host(there), "--profile", "--link", "160mbit", "--policy", "gentle")
        assert (await ground.godwit(*words, deadline=90)).status == 0
        ran = await ground.godwit("migrate", ground.name, ground.host(there), "--policy", "gentle", deadline=60)
        assert ran.status == 3, ran
        assert "would not end moving by itself" in ran.err
        assert "--allow throttle" in ran.err
        await ground.assert_settled(here)
