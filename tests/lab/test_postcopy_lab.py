"""A guest that goes over to the target before its memory: links that break, and runners that die, while that follows.

A writer in the guest checks every page that it has ever written; a client counts its ticks.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from labtraps import Trap

from godwit.core.state import Phase
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

LINK: Final = 160_000_000
SLOWER: Final = 16_000_000
MAY: Final = ("--allow", "postcopy", "--forbid", "throttle")
MENDED: Final = 2.0
"""Seconds after its link is back within which a guest is to get memory again."""


@contextmanager
def writing(ground: Ground) -> Iterator[None]:
    """Let the guest rewrite whole pages faster than its link carries them, and look after each of them."""
    ground.lab.set_rate(LINK)
    ground.ssh("memwriter --rate 40M --set 24M --verify >/run/log/postcopy 2>&1 & sleep 3")
    try:
        yield
        assert "CORRUPT" not in ground.ssh(
            "cat /run/log/postcopy; pidof memwriter >/dev/null || echo CORRUPT: it ended"
        )
    finally:
        ground.lab.set_rate(None)
        ground.ssh("killall memwriter || true")


async def test_a_guest_that_nothing_else_ends_goes_over_and_is_whole(
    ground: Ground, figure: Callable[[str, object], None]
) -> None:
    _, there = await ground.whereabouts()
    with writing(ground):
        async with ground.client():
            move = await ground.begin(there, *MAY, "--probe", ground.address)
            outcome = await move.outcome(90)
        assert outcome.status is OutcomeStatus.COMPLETED, outcome
        assert Phase.POSTCOPY.value in await move.phases()
        figure("blackout_ms", outcome.downtime.blackout_ms)
        figure("client_gap_ms", outcome.downtime.client_gap_ms)
        assert outcome.downtime.blackout_ms is not None
        assert outcome.downtime.blackout_ms < 300
        await ground.assert_settled(there)


@pytest.mark.long
async def test_a_link_that_is_cut_while_memory_follows_is_mended_when_it_is_back(
    ground: Ground, figure: Callable[[str, object], None]
) -> None:
    _, there = await ground.whereabouts()
    with writing(ground):
        move = await ground.begin(there, *MAY)
        await move.reaches(Phase.POSTCOPY)
        ground.lab.set_rate(SLOWER)
        ground.lab.cut(there, "migration")
        await asyncio.sleep(4)
        ground.lab.set_rate(LINK)
        ground.lab.heal(there, "migration")
        healed = time.time()
        outcome = await move.outcome(90)
        assert outcome.status is OutcomeStatus.COMPLETED, outcome
        mended = [line.at for line in await move.entries() if line.data.get("event") == "StreamMended"]
        assert mended
        figure("mended_after_s", round(mended[-1] - healed, 2))
        assert mended[-1] - healed < MENDED
        await ground.assert_settled(there)


@pytest.mark.long
@pytest.mark.parametrize("instant", ["before the guest goes over", "while memory follows"])
async def test_a_runner_that_is_killed_is_followed_by_one_that_goes_on(ground: Ground, instant: str) -> None:
    _, there = await ground.whereabouts()
    at = "godwit.qemu.guest:QemuGuest.go_over"
    trap = Trap("kill", at=at) if instant.startswith("before") else Trap("kill", "postcopy")
    traps = ground.lay(trap)
    with writing(ground):
        async with ground.client():
            move = await ground.begin(there, *MAY, traps=traps)
            outcome = await move.outcome(90)
        assert traps.sprung()
        assert outcome.status is OutcomeStatus.COMPLETED, outcome
        assert outcome.owner is Owner.TARGET
        await ground.assert_settled(there)
