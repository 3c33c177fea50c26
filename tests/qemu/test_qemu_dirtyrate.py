"""Measuring how a guest changes its memory: what is asked of new and old QEMUs, and what their answers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from godwit.errors import HypervisorError, MonitorCommandError
from godwit.qemu import dirtyrate

if TYPE_CHECKING:
    from collections.abc import Mapping

FINE = {"mode": "page-sampling", "sample-pages": 4096, "calc-time": 50, "calc-time-unit": "millisecond"}
COARSE = {"mode": "page-sampling", "sample-pages": 4096, "calc-time": 1}


class Asked:
    """A QEMU; `unit` says whether it knows milliseconds, `looks` how many looks come before it has measured."""

    version = (10, 0, 2)

    def __init__(self, *, unit: bool = True, looks: int = 0, refuses: str = "") -> None:
        self.unit, self.looks, self.refuses = unit, looks, refuses
        self.asked: list[Mapping[str, object]] = []

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, deadline: float = 1.0
    ) -> object:
        del deadline
        if command == "calc-dirty-rate":
            assert arguments is not None
            if self.refuses:
                raise MonitorCommandError(self.refuses)
            if not self.unit and "calc-time-unit" in arguments:
                message = "Parameter 'calc-time-unit' is unexpected"
                raise MonitorCommandError(message)
            self.asked.append(arguments)
            return {}
        assert command == "query-dirty-rate"
        self.looks -= 1
        return {"status": "measuring"} if self.looks >= 0 else {"status": "measured", "dirty-rate": 160}


async def test_a_window_in_milliseconds() -> None:
    qemu = Asked(looks=2)
    window = await dirtyrate.measure(qemu, 0.05)
    assert qemu.asked == [FINE]
    assert (window.seconds, window.unique) == (0.05, 8 << 20)


async def test_an_old_qemu_measures_whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("godwit.qemu.dirtyrate.asyncio.sleep", sleep)
    qemu = Asked(unit=False)
    window = await dirtyrate.measure(qemu, 0.05)
    assert qemu.asked == [COARSE]
    assert (window.seconds, window.unique) == (1.0, 160 << 20)
    assert slept == [1.0]


async def test_a_refusal_is_passed_on() -> None:
    with pytest.raises(MonitorCommandError, match="already in progress"):
        await dirtyrate.measure(Asked(refuses="the dirty rate is already in progress"), 0.05)


async def test_one_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dirtyrate, "PATIENCE", 0.1)
    with pytest.raises(HypervisorError, match="has not measured"):
        await dirtyrate.measure(Asked(looks=10**6), 0.05)
