"""How far a migration is, folded from its journal. Pure: lines in, figures out; the percentage never goes backwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from godwit.measure.narrative import number_of, text_of
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.ports import Entry

_FLOORS: Final[Mapping[str, float]] = {
    "preparing": 1.0,
    "mirroring": 2.0,
    "switchover": 96.0,
    "powering-off": 60.0,
    "starting": 90.0,
    "committing": 97.0,
    "postcopy": 97.0,
    "finishing": 98.0,
    "done": 100.0,
}
"""The least that a phase stands for, in percent."""

_RUNS_AGAIN: Final = frozenset({"postcopy", "finishing", "done", "cancelled", "failed"})

_LONG: Final = 1.0

_PRECOPY_BEGINS, _PRECOPY_ENDS = 2.0, 95.0

_FIRST_PASS: Final = 78 / 93
"""The share of the first pass: each later one is shorter, unless the guest writes faster than the link carries."""

_CLOSE: Final = 1.15


@dataclass(frozen=True, slots=True)
class Reading:
    """The newest sample: bytes and bytes a second; `eta` is the shortest and longest time left in seconds."""

    at: float
    iteration: int
    transferred: float
    remaining: float
    total: float
    rate: float
    dirty_rate: float
    eta: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a watcher needs to know now. `percent` runs from 0 to 100, and reaches 100 only with the guest moved."""

    phase: str = "pending"
    owner: str = "source"
    percent: float = 0.0
    begun: float | None = None
    at: float = 0.0
    reading: Reading | None = None
    cancelling: bool = False
    disks: tuple[tuple[str, float, float], ...] = ()
    """Name, bytes done and bytes known to be needed of each disk that is copied."""
    memory: float = 0.0
    """Bytes of the guest's memory, which follows the disks."""
    standing: float | None = None
    """Since when nobody executes the guest."""

    @property
    def copied(self) -> tuple[float, float]:
        """Bytes of disks done, and known to be needed."""
        return sum(done for _, done, _ in self.disks), sum(needed for _, _, needed in self.disks)

    @property
    def stream_begins(self) -> float:
        """The percentage at which memory's turn comes: the part that disks have of all bytes."""
        _, needed = self.copied
        share = needed / (needed + self.memory) if self.memory > 0 else 0.0
        return _PRECOPY_BEGINS + (_PRECOPY_ENDS - _PRECOPY_BEGINS) * share


def advance(progress: Progress, entry: Entry) -> Progress:
    """Return the progress after one more line of the journal."""
    progress = replace(progress, at=max(entry.at, progress.at))
    if entry.kind == "transition":
        return _after_transition(progress, entry)
    if entry.kind == "mark":
        return _after_mark(progress, entry)
    if entry.kind == "sample":
        reading = read(entry)
        begun = reading.at if progress.begun is None else progress.begun
        progress = replace(progress, reading=reading, begun=begun)
        return replace(progress, percent=max(progress.percent, _percent(progress, reading, begun)))
    if entry.kind == "mirror":
        return _after_mirror(progress, entry)
    return progress


def _after_mark(progress: Progress, entry: Entry) -> Progress:
    match text_of(entry.data, "name"):
        case "stream_started" if progress.begun is None:
            return replace(progress, begun=entry.at)
        case "source_stopped":
            return replace(progress, standing=entry.at)
        case "target_running":
            return replace(progress, standing=None)
        case _:
            return progress


def _after_mirror(progress: Progress, entry: Entry) -> Progress:
    name = text_of(entry.data, "name")
    done, needed = (number_of(entry.data, key) or 0.0 for key in ("done", "needed"))
    others = tuple(disk for disk in progress.disks if disk[0] != name)
    memory = number_of(entry.data, "memory") or progress.memory
    progress = replace(progress, disks=tuple(sorted((*others, (name, done, needed)))), memory=memory)
    if progress.phase not in {"preparing", "mirroring"}:
        return progress
    copied, wanted = progress.copied
    floor = _FLOORS["mirroring"]
    percent = floor + (progress.stream_begins - floor) * (copied / wanted if wanted else 1.0)
    return replace(progress, percent=max(progress.percent, percent))


def _after_transition(progress: Progress, entry: Entry) -> Progress:
    phase = text_of(entry.data, "phase") or progress.phase
    floor = progress.stream_begins if phase in {"unplugging", "precopy"} else _FLOORS.get(phase, 0.0)
    runs_again = text_of(entry.data, "event") in {"SourceResumed", "TargetRunning"} or phase in _RUNS_AGAIN
    return replace(
        progress,
        standing=None if runs_again else progress.standing,
        phase=phase,
        owner=text_of(entry.data, "owner") or progress.owner,
        percent=max(progress.percent, floor),
        cancelling=progress.cancelling or text_of(entry.data, "event") == "CancelRequested",
    )


def read(entry: Entry) -> Reading:
    """Return a sample of the journal; figures that are missing count as nothing."""

    def figure(name: str) -> float:
        return max(0.0, number_of(entry.data, name) or 0.0)

    return Reading(
        at=number_of(entry.data, "at") or entry.at,
        iteration=int(figure("iteration")),
        transferred=figure("transferred"),
        remaining=figure("remaining"),
        total=figure("total"),
        rate=figure("rate"),
        dirty_rate=figure("dirty_rate"),
        eta=_eta(entry.data.get("eta")),
    )


def _eta(value: object) -> tuple[float, float] | None:
    match value:
        case [int() | float() as shortest, int() | float() as longest]:
            return float(shortest), float(longest)
        case _:
            return None


def _percent(progress: Progress, reading: Reading, begun: float) -> float:
    """Say how far the stream is: by bytes in the first pass, then by time, as far as anybody can say."""
    if progress.phase not in {"preparing", "precopy"} or reading.total <= 0:
        return 0.0
    floor = progress.stream_begins
    first_pass_ends = floor + (_PRECOPY_ENDS - floor) * _FIRST_PASS
    if reading.iteration <= 1:
        done = 1.0 - min(1.0, reading.remaining / reading.total)
        return floor + (first_pass_ends - floor) * done
    if reading.eta is None:
        return first_pass_ends
    elapsed = max(0.0, reading.at - begun)
    left = max(0.0, reading.eta[1])
    share = elapsed / (elapsed + left) if elapsed + left > 0 else 1.0
    return floor + (_PRECOPY_ENDS - floor) * share if progress.disks else _PRECOPY_ENDS * share


def eta_words(reading: Reading) -> str:
    """Say how long it may still take, as a range, or why nobody can say."""
    if reading.eta is None:
        if reading.iteration > 1 and reading.dirty_rate >= reading.rate > 0:
            return "does not converge so far"
        return "no estimate yet"
    shortest, longest = reading.eta
    if longest <= max(shortest * _CLOSE, 1.0):
        return f"about {_seconds(longest)} left" if longest >= 1 else "under 1 s left"
    return f"{_seconds(shortest)} to {_seconds(longest)} left"


def _seconds(seconds: float) -> str:
    minute, hour, ten = 60, 3600, 10
    if seconds < ten:
        return f"{seconds:.1f} s"
    if seconds < 2 * minute:
        return f"{seconds:.0f} s"
    if seconds < 2 * hour:
        return f"{seconds / minute:.0f} min"
    return f"{seconds / hour:.1f} h"


def completed(progress: Progress) -> str:
    """Return what ends the display of a move that took disks along, empty for any other."""
    return "Completed 100 %" if progress.phase == "done" and progress.disks else ""


def disk_figures(progress: Progress) -> str:
    """Say how far the copies of disks are, in one line."""
    done, needed = progress.copied
    names = ", ".join(name for name, _, _ in progress.disks)
    return f"disks {names}: {format_size(done)} of {format_size(needed)}"


def standstill(progress: Progress, now: float) -> str:
    """Say for how long the guest has not run, where that is longer than a switchover lasts; else nothing."""
    if progress.standing is None or now - progress.standing < _LONG:
        return ""
    since = datetime.fromtimestamp(progress.standing).astimezone()
    return f"the guest stands still since {since:%H:%M:%S}, {format_duration(now - progress.standing)} by now"


def figures(reading: Reading) -> str:
    """Say pass, what is left, and both rates in one line."""
    parts = [f"pass {max(1, reading.iteration)}", f"{format_size(reading.remaining)} left"]
    parts += [f"{format_size(reading.transferred)} sent", f"at {format_bandwidth(reading.rate)}"]
    if reading.iteration > 1:
        parts.append(f"dirtied at {format_bandwidth(reading.dirty_rate)}")
    return ", ".join(parts)
