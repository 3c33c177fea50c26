"""A move there and back under load, typed as a user types it."""

from __future__ import annotations

import asyncio
import os
import pty
import statistics
import sys
import termios
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from labwaits import until

from godwit.errors import InputError
from godwit.lab.loads import SshTop
from godwit.measure.probe import OutsideProbe, ProbeSpec
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CONTINUE_MS: Final = 5.0
"""What telling the target to run may add to the time in which the guest stands still."""


@dataclass(slots=True)
class Console:
    """`godwit vm console` at a terminal of its own."""

    process: asyncio.subprocess.Process
    master: int
    slave: int
    shown: str = ""

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def shows(self, words: str) -> bool:
        """Read what has come, and say whether the words are in it."""
        with suppress(BlockingIOError):
            while data := os.read(self.master, 1 << 14):
                self.shown += data.decode(errors="replace")
        return words in self.shown

    async def says(self, line: str, answer: str) -> None:
        """Type a line into the guest's shell and wait for what it prints."""
        self.type(line.encode() + b"\r")
        await until(lambda: self.shows(answer), f"the guest answers {line!r}")

    async def ends(self, words: str) -> None:
        """Wait for the end, its last words, and the terminal as a shell needs it."""
        await until(lambda: self.shows(words), f"{words!r} in {self.shown!r}")
        assert await self.process.wait() == 0
        assert self.cooked

    @property
    def cooked(self) -> bool:
        return bool(termios.tcgetattr(self.slave)[3] & termios.ICANON)


@asynccontextmanager
async def console(ground: Ground) -> AsyncIterator[Console]:
    """Attach to the guest's console, and wait until it is."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    words = (sys.executable, "-m", "godwit", "vm", "console", ground.name)
    process = await asyncio.create_subprocess_exec(
        *words, stdin=slave, stdout=slave, stderr=slave, env=ground.environment(), start_new_session=True
    )
    made = Console(process, master, slave)
    try:
        await until(lambda: made.shows("Ctrl-] leaves"), "the console")
        await until(lambda: not made.cooked, "every key is handed through")
        yield made
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)
        os.close(slave)


async def test_there_and_back_under_load_and_nobody_notices(ground: Ground) -> None:
    ground.lab.set_rate(400_000_000)
    probe = f"{ground.address}@{ground.host('client')}"
    requests = ProbeSpec.parse(f"redis://{ground.address}:6379/set", interval_ms=5)
    prober = ground.lab.command("client", [sys.executable])
    async with (
        ground.client() as ticks,
        SshTop(ground.lab, ground.address) as top,
        OutsideProbe(prober, requests) as redis,
    ):
        await redis.ready()
        for machine in ("host2", "host1"):
            before = ticks.ticks
            ran = await ground.godwit("migrate", ground.name, ground.host(machine), "--json", "--probe", probe)
            assert ran.status == 0, ran.err
            assert ticks.ticks > before
            outcome = ran.lines[-1]["data"]
            assert ran.lines[-1]["kind"] == "outcome"
            assert (outcome["status"], outcome["owner"], outcome["guest_alive"]) == ("completed", "target", True)
            downtime = outcome["downtime"]
            assert 0 < downtime["qemu_ms"] < 300
            assert 0 < downtime["blackout_ms"] < 1000
            assert downtime["blackout_ms"] <= downtime["client_gap_ms"] + 20 < 1500
            assert outcome["bytes"] > 30_000_000
            assert await top.survives()
            await ground.assert_settled(machine)
        series = await redis.finish()
    assert series.errors == {}
    assert series.reconnects == 0
    assert len(series.sent_s) > 200


@pytest.mark.long
async def test_the_word_to_go_on_costs_next_to_nothing(ground: Ground, figure: Callable[[str, object], None]) -> None:
    """From both sides' word that all is there until the guest runs: deciding, the journal, `cont` and its way.

    Whatever else this machine does can only add to it: five moves in a row count, of at most fifteen.
    """
    ground.lab.set_rate(None)
    parts = ("decide to continue", "continue: round trip to the target")
    costs: list[float] = []
    while len(costs) < 5 or (statistics.median(costs[-5:]) >= CONTINUE_MS and len(costs) < 15):
        _, there = await ground.whereabouts()
        outcome = await (await ground.begin(there)).outcome()
        assert outcome.status is OutcomeStatus.COMPLETED
        breakdown = dict(outcome.downtime.breakdown)
        costs.append(sum(breakdown[part] for part in parts))
    figure("continue_ms", " ".join(f"{cost:.2f}" for cost in costs))
    assert statistics.median(costs[-5:]) < CONTINUE_MS


async def test_a_console_follows_its_guest_and_leaves_it_alone(ground: Ground) -> None:
    """What is typed reaches the guest; a console that its QEMU ends, and one that is left, give the terminal back."""
    here, there = await ground.whereabouts()
    ground.lab.set_rate(None)
    nobody = await ground.godwit("vm", "console", ground.name)
    assert (nobody.status, nobody.out) == (InputError.exit_status, "")
    assert "a console needs a terminal" in nobody.err
    async with ground.client():
        async with console(ground) as before:
            await before.says("echo on-$((6 * 7))", "on-42")
            assert not before.cooked
            ran = await ground.godwit("migrate", ground.name, ground.host(there))
            assert ran.status == 0, ran.err
            await before.ends("the console ended")
        async with console(ground) as after:
            await after.says("echo still-$((6 * 7))", "still-42")
            after.type(b"\x1d")
            await after.ends("left the console")
    assert here != there
    await ground.assert_settled(there)


async def test_qemus_own_decisions_work_as_well(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there), "--json", "--qemu-defaults")
        assert ran.status == 0, ran.err
    assert here != there
    await ground.assert_settled(there)


async def test_history_and_report_tell_of_the_moves(ground: Ground) -> None:
    ran = await ground.godwit("history", "--json")
    assert ran.status == 0
    assert all(word in ran.out for word in (ground.name, "completed"))
    page = ground.home / "report.html"
    told = await ground.godwit("report", ground.name, "--html", str(page))
    assert told.status == 0, told.err
    text = page.read_text()
    assert text.count("<svg") >= 1
    assert ground.host("host2") in text
