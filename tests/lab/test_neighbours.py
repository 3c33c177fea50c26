"""A guest moves beside others that have work to do: what that costs them is seen, and held within what was promised."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from labtools import MEMORY

from godwit import app
from godwit.core.protecting import EASE, FLOOR, IN_VAIN, YIELD
from godwit.lab.furnish import GuestPlan, add_guest
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from labmoves import Move
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

LINK: Final = 200_000_000
LOOP: Final = "while :; do :; done"
FILL: Final = "memwriter --rate 2M --set 96M --verify"
"""What takes some seconds to send, and is not written faster than it can be."""


@asynccontextmanager
async def neighbour(ground: Ground, host: str) -> AsyncIterator[str]:
    """Let another guest of the source compute without a pause; yields its name."""
    mover, number = ground.name, ground.number
    plan = GuestPlan(f"beside{ground.guests}", ground.guests, MEMORY)
    ground.guests += 1
    async with app.opened(ground.home) as service:
        vm = await add_guest(service, ground.lab, ground.assets, plan, host)
    ground.use(vm.name, plan.number)
    try:
        await ground.answers()
        ground.ssh(f"nohup sh -c '{LOOP}' >/dev/null 2>&1 & sleep 1")
        ground.use(mover, number)
        yield vm.name
    finally:
        ground.use(mover, number)
        async with app.opened(ground.home) as service:
            await service.stop_vm(vm.name, force=True)
            await service.remove_vm(vm.name)


async def report(ground: Ground, move: Move) -> dict[str, Any]:
    ran = await ground.godwit("report", move.id, "--json")
    assert ran.status == 0, ran
    return dict(json.loads(ran.out))


@pytest.mark.long
async def test_a_stream_yields_to_a_neighbour_and_the_report_says_what_both_came_to(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(LINK)
    ground.ssh(f"{FILL} >/run/log/beside 2>&1 & sleep 5")
    try:
        async with neighbour(ground, here) as other:
            move = await ground.begin(there, "--probe", ground.address, "--protect-neighbours", "90%")
            outcome = await move.outcome(150)
            assert outcome.status is OutcomeStatus.COMPLETED, outcome
            assert (await ground.whereabouts())[0] == there
            entries = await move.entries()
            first = next(entry.data for entry in entries if entry.kind == "protecting")
            assert first["parameters"]["max-bandwidth"] > 0  # type: ignore[index] # it was just written so
            told = await report(ground, move)
            actions = {row["action"].split(" (")[0] for row in told["decisions"]}
            assert actions & {YIELD, EASE, FLOOR, IN_VAIN}, actions
            kept = [row for row in told["costs"] if row["guest"] == other and row["what"] == "CPU it got"]
            assert kept, told["costs"]
            assert 0 < kept[0]["during"] <= 1
            assert kept[0]["pieces"]
            own = {row["what"]: row for row in told["costs"] if row["guest"] == ground.name}
            assert own["CPU"]["before"] > 0
            assert own["CPU"]["after"] is not None, "its CPUs were not seen to work on the target"
            assert own["replies"]["during"] > 0
            before = own["replies"]["before"]  # None where the probe had no moment before the stream
            assert before is None or before > 0
            shown = await ground.godwit("report", move.id)
            assert "what it cost" in shown.out
            assert f"{other} on {ground.host(here)}, CPU it got" in shown.out
        assert "CORRUPT" not in ground.ssh("cat /run/log/beside")
    finally:
        ground.lab.set_rate(None)
        ground.ssh("killall memwriter || true")


@pytest.mark.long
async def test_without_neighbours_nothing_is_held_back(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    move = await ground.begin(there, "--protect-neighbours")
    outcome = await move.outcome(100)
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    entries = await move.entries()
    assert not [entry for entry in entries if entry.kind == "protecting"]
    assert any("there is none to protect" in str(entry.data.get("text")) for entry in entries)
    await ground.assert_settled(there)
