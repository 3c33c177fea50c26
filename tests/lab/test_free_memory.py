"""Memory that a guest once used and has freed: its balloon takes that while it moves, and gives it back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from godwit.core.state import Phase
from godwit.model import OutcomeStatus
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MEMORY: Final = 512 * MIB
FREED: Final = 300


@pytest.fixture
def empty(ground: Ground) -> Ground:
    """Return the laboratory with a guest that has hardly used any of its memory."""

    async def start() -> None:
        assert (await ground.godwit("vm", "stop", ground.name, "--force")).status == 0
        await ground.fresh_guest((await ground.whereabouts())[0], memory=MEMORY, reports=False, disk=2 * FREED * MIB)

    asyncio.run(start())
    return ground


@pytest.fixture
def once_used(empty: Ground) -> Ground:
    """Return the laboratory with a guest that has written to much of its memory, and uses hardly any of it."""
    ground = empty
    ground.ssh(f"memwriter --rate 200M --set {FREED}M >/run/log/once 2>&1 & sleep 4; killall memwriter")
    return ground


async def left(ground: Ground) -> int:
    """Return the bytes of its memory that the guest's balloon leaves to it."""
    here, _ = await ground.whereabouts()
    return int(ground.tell(await ground.qemu(here), "query-balloon")["actual"])


async def has_it_back(ground: Ground) -> None:
    """Wait until the guest has all of its memory."""
    for _ in range(150):
        if await left(ground) == MEMORY:
            return
        await asyncio.sleep(0.2)
    assert await left(ground) == MEMORY


@pytest.mark.long
async def test_what_is_free_is_not_sent(once_used: Ground, figure: Callable[[str, object], None]) -> None:
    ground = once_used
    _, there = await ground.whereabouts()
    ground.lab.set_rate(400_000_000)
    async with ground.client():
        move = await ground.begin(there, "--probe", ground.address)
        outcome = await move.outcome(90)
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    assert outcome.bytes < (FREED - 100) * MIB
    notes = [str(line.data.get("text", "")) for line in await move.entries()]
    assert any("the balloon took" in note for note in notes)
    figure("balloon", next(note for note in notes if "the balloon took" in note))
    figure("sent_mib", outcome.bytes / MIB)
    figure("client_gap_ms", outcome.downtime.client_gap_ms)
    await has_it_back(ground)
    await ground.assert_settled(there)


@pytest.mark.long
async def test_what_is_kept_of_disks_is_not_sent_where_that_is_permitted(
    empty: Ground, figure: Callable[[str, object], None]
) -> None:
    ground = empty
    sums = ground.ssh(f"yes | head -c {FREED}M >/data/kept; sync; md5sum /data/kept")
    _, there = await ground.whereabouts()
    ground.lab.set_rate(400_000_000)
    async with ground.client():
        move = await ground.begin(there, "--allow", "page-cache")
        outcome = await move.outcome(90)
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    assert outcome.bytes < (FREED - 100) * MIB
    figure("sent_mib", outcome.bytes / MIB)
    figure("client_gap_ms", outcome.downtime.client_gap_ms)
    await has_it_back(ground)
    assert ground.ssh("md5sum /data/kept") == sums
    await ground.assert_settled(there)


@pytest.mark.long
async def test_a_move_that_is_cancelled_gives_it_back(once_used: Ground) -> None:
    ground = once_used
    here, there = await ground.whereabouts()
    ground.lab.set_rate(20_000_000)
    move = await ground.begin(there)
    await move.reaches(Phase.PRECOPY)
    assert await left(ground) < MEMORY
    assert (await ground.godwit("cancel", move.id)).status == 0
    outcome = await move.outcome(60)
    assert outcome.status is OutcomeStatus.CANCELLED
    await ground.assert_settled(here)
    await has_it_back(ground)
