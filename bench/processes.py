"""Runner processes over simulated hosts, and what processes take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.ports import Log

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MEGABYTE: Final = 1e6


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds of a core so far, and megabytes now."""

    cpu: float
    megabytes: float


def resident() -> float:
    """Return the megabytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / _MEGABYTE


def total() -> float:
    """Return how many processes of the machine want a core, about: what else it does is in every figure."""
    return os.getloadavg()[0]


@dataclass(slots=True)
class Processes:
    """Starts `bench.loadrunner` for each migration; see `godwit.ports.Runners`."""

    home: Path
    seconds: float
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _spent: dict[int, float] = field(default_factory=dict)

    @property
    def _figures(self) -> Path:
        return self.home / "writes.jsonl"

    def start(self, identifier: str, vm: str) -> None:
        """Start a supervisor and its runner."""
        words = [sys.executable, "-m", "bench.loadrunner", identifier, vm, str(self.seconds), str(self._figures)]
        with (self.home / "runners.log").open("ab") as log:
            self.children[vm] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def alive(self, vm: str) -> bool:
        """Say whether its supervisor runs."""
        return self.children[vm].poll() is None

    def logs(self) -> dict[str, Log]:
        """Return none: all write to one."""
        return {}

    def remove_log(self, identifier: str) -> None:
        """Do nothing; see `logs`."""

    @asynccontextmanager
    async def hold(self, vm: str) -> AsyncIterator[None]:
        """Hold nothing: nobody else is here."""
        del vm
        yield

    def figures(self) -> Figures:
        """Return what all supervisors and runners have taken so far, and have in memory, shared pages counted once."""
        kilobytes = 0
        for child in self.children.values():
            for pid in (child.pid, *_children(child.pid)):
                with suppress(OSError, ValueError, IndexError):
                    self._spent[pid] = _worked(pid)
                    kilobytes += _proportional(pid)
        return Figures(sum(self._spent.values()), kilobytes * 1024 / _MEGABYTE)

    def writes(self) -> list[dict[str, object]]:
        """Return what the writes to the journal took."""
        lines = [json.loads(line) for line in self._figures.read_text().splitlines()]
        return [write for line in lines for write in line["writes"]]


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _worked(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _proportional(pid: int) -> int:
    """Return kilobytes; a page that n processes share counts 1/n in each."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
