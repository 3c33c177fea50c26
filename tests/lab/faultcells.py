"""The fault matrix: where a move is held, what happens there, and where the guest must be afterwards.

`TABLE` is read line by line: a fault, then for each mode the points at which it strikes and the end of each.
A guest is lost only where the fault itself destroys the only copy of it; these cells say `lost` or `crashed` here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from labtools import CRAWL
from labtraps import Trap

GUEST: Final = "godwit.qemu.guest:QemuGuest"
HOST: Final = "godwit.hosts.plain:PlainHost"


class Mode(StrEnum):
    """How the guest travels."""

    PRECOPY = "precopy"
    POSTCOPY = "postcopy"
    MIRROR = "mirror"
    STATIC = "static"


class End(StrEnum):
    """Where the guest is in the end, and what the journal says of it."""

    MOVED = "moved"
    """It runs on the target: completed."""
    STAYS = "stays"
    """It runs on the source: failed or cancelled, and undone."""
    EITHER = "either"
    """One of the two: which, is decided by whether its last page was through at that instant."""
    LOST = "lost"
    """The fault destroyed the only copy, on the source: failed, and it can be started anew from its disks."""
    CRASHED = "crashed"
    """The fault destroyed the only copy, on the target, or the half that was on either: guest-crashed."""
    GONE = "gone"
    """The same, with the whole host: guest-crashed, or completed where the move was over before that was seen."""


MEANS: Final = {
    End.MOVED: "runs on the target, nothing is left on the source",
    End.STAYS: "runs on the source, nothing is left on the target",
    End.EITHER: "runs on one of the two, nothing is left on the other",
    End.LOST: "died with its only copy, on the source; starts anew from its disks",
    End.CRASHED: "died with its only copy, on the target; starts anew from its disks",
    End.GONE: "the same, with its host; its move may have been over before that was noticed",
}
"""What each end says of the guest."""


@dataclass(frozen=True, slots=True)
class Point:
    """An instant of a move: what a runner is about to do, or has just done, there, or a pass that lasts long enough.

    `rate` is that of the migration link until then, in bits a second; `cancels` says that the move is cancelled in its
    first pass, so that it goes back; `crawls` that the last pages crawl over the link at that instant.
    """

    words: str
    trap: Trap | None = None
    rate: int | None = None
    cancels: bool = False
    crawls: bool = False
    passes: int = 0


_SLOW: Final = 40_000_000
LAST_PAGES: Final = 200_000_000
"""Bits a second at which the last pages of a guest that writes take a third of a second."""


def _journal(phase: str, when: str = "after") -> Trap:
    return Trap("ask", phase, when)


def _call(where: str, when: str = "after") -> Trap:
    return Trap("ask", at=where, when=when)


POINTS: Final = {
    "facts": Point("pending: a host was just looked at", _call(f"{HOST}.facts")),
    "preparing": Point("preparing, in the journal", _journal("preparing")),
    "launched": Point("preparing: the target's QEMU was just started", _call(f"{HOST}.launch")),
    "listening": Point("preparing: the target has just begun to listen", _call(f"{GUEST}.listen")),
    "paused": Point("preparing: the guest was just stopped", _call(f"{GUEST}.pause")),
    "mirroring": Point("mirroring, in the journal", _journal("mirroring"), _SLOW),
    "copying": Point("mirroring: a disk is being copied", _call(f"{GUEST}.start_mirror"), _SLOW),
    "begun": Point("precopy, in the journal: no byte is sent yet", _journal("precopy")),
    "pass1": Point("precopy: the first pass", rate=CRAWL, passes=1),
    "undoing": Point("rolling back, in the journal", _journal("rolling-back"), CRAWL, cancels=True),
    "undone": Point("rolling back: the target's QEMU was just ended", _call(f"{HOST}.destroy"), CRAWL, cancels=True),
    "stopping": Point("switchover, not yet in the journal", _journal("switchover", "before")),
    "crawling": Point("switchover: the last pages crawl", _journal("switchover", "before"), crawls=True),
    "stopped": Point("switchover, in the journal", _journal("switchover")),
    "held": Point("switchover: the stream is held, disks are to end", _journal("switchover")),
    "ended": Point("switchover: the copy of a disk has just ended", _call(f"{GUEST}.end_mirror")),
    "released": Point("switchover: the held stream goes on", _call(f"{GUEST}.continue_stream")),
    "going": Point("switchover: the guest was just told to go over", _call(f"{GUEST}.go_over")),
    "handing": Point("committing, not yet in the journal", _journal("committing", "before")),
    "cont": Point("committing: before the target is told to run", _call(f"{GUEST}.resume", "before")),
    "told": Point("committing: the target was just told to run", _call(f"{GUEST}.resume")),
    "over": Point("postcopy: memory follows", _journal("postcopy")),
    "running": Point("finishing, in the journal", _journal("finishing")),
    "removing": Point("finishing: before the source's QEMU is ended", _call(f"{HOST}.destroy", "before")),
    "removed": Point("finishing: the source's QEMU was just ended", _call(f"{HOST}.destroy")),
    "concluding": Point(
        "done: before the outcome is written", _call("godwit.journal.sqljournal:SqlJournal.conclude", "before")
    ),
}

TABLE: Final = """
runner killed
  precopy  facts=moved preparing=stays launched=stays listening=stays begun=stays pass1=moved stopping=either
  precopy  crawling=moved stopped=either handing=moved cont=moved told=moved running=moved removing=moved removed=moved
  precopy  concluding=moved undoing=stays undone=stays
  postcopy launched=stays listening=stays begun=stays pass1=moved going=moved handing=moved cont=moved told=moved
  postcopy over=moved running=moved removed=moved
  mirror   preparing=stays launched=stays listening=stays mirroring=moved copying=moved begun=stays pass1=either
  mirror   held=stays ended=stays released=moved handing=moved told=moved running=moved removed=moved undoing=stays
  static   preparing=stays launched=stays listening=stays paused=stays begun=stays pass1=moved stopped=either
  static   handing=moved told=moved running=moved removed=moved
runner and supervisor killed, then a command
  precopy  preparing=stays pass1=moved stopped=either handing=moved told=moved running=moved undoing=stays
  postcopy going=moved over=moved
  mirror   copying=moved held=stays released=moved
  static   paused=stays pass1=moved
runner stopped for 4 s
  precopy  launched=moved pass1=moved stopped=moved told=moved running=moved undoing=stays
  postcopy going=moved over=moved
  mirror   copying=moved held=moved
  static   paused=moved pass1=moved
runner and supervisor stopped for good, then killed, then a command
  precopy  pass1=moved stopped=either told=moved
  postcopy over=moved
  mirror   held=stays
source's QEMU killed
  precopy  listening=lost pass1=lost crawling=lost told=moved running=moved
  postcopy pass1=lost over=crashed running=moved
  mirror   copying=lost pass1=lost held=lost running=moved
  static   pass1=lost
source's QEMU stopped for 4 s
  precopy  pass1=moved crawling=either running=moved
  postcopy over=moved
  mirror   copying=moved held=either
  static   pass1=moved
source's QEMU stopped for good
  precopy  pass1=limbo>stays running=moved
  mirror   copying=stays
target's QEMU killed
  precopy  listening=stays pass1=stays crawling=stays told=crashed running=crashed
  postcopy pass1=stays over=crashed
  mirror   listening=stays copying=stays pass1=stays held=stays told=crashed
  static   listening=stays pass1=stays
target's QEMU stopped for 4 s
  precopy  listening=either pass1=either told=moved
  postcopy over=moved
  mirror   copying=either held=either
  static   pass1=either
target's QEMU stopped for good
  precopy  pass1=stays
  mirror   copying=stays
  static   pass1=stays
SSH sessions of both hosts killed
  precopy  launched=either pass1=moved told=moved running=moved undoing=stays
  postcopy over=moved
  mirror   copying=moved held=either
  static   pass1=either
sshd of the source stopped for 4 s
  precopy  pass1=moved running=moved
  mirror   held=either
sshd of the target stopped for 4 s
  precopy  pass1=either told=moved
  postcopy over=moved
  mirror   copying=either
sshd of the source dead for good
  precopy  pass1=limbo>stays running=moved
sshd of the target dead for good
  precopy  pass1=stays told=moved
source host crashes
  precopy  pass1=lost running=moved
  postcopy over=crashed
  mirror   copying=lost running=moved
  static   pass1=lost
source host falls silent and crashes
  precopy  pass1=limbo>lost running=moved
target host crashes
  precopy  listening=stays pass1=stays crawling=stays told=gone running=gone
  postcopy over=crashed
  mirror   copying=stays held=stays
  static   pass1=stays
target host falls silent and crashes
  precopy  pass1=stays
  mirror   copying=stays
migration link cut for 1 s
  precopy  pass1=moved crawling=either
  postcopy over=moved
  mirror   copying=moved held=either
  static   pass1=moved
migration link cut for 10 s
  precopy  pass1=moved crawling=stays
  postcopy over=moved
  mirror   copying=moved
migration link cut for good
  precopy  pass1=stays crawling=stays running=moved
  mirror   copying=stays held=stays
  static   pass1=stays
no room left for the target's images
  mirror   copying=stays
no room left in the controller's home
  precopy  pass1=either stopped=either told=moved running=moved
  postcopy over=moved
  mirror   copying=either held=either
journal locked for 3 s
  precopy  pass1=moved stopping=moved told=moved running=moved concluding=moved
  postcopy over=moved
  mirror   held=moved
journal locked for good
  precopy  pass1=either stopping=stays told=moved
"""
"""One line in it is one mode: point=end, as often as there are points; limbo>end comes when the fault is mended."""

IN_SCRIPT_TEST: Final = frozenset(
    {
        "precopy pass1: SSH sessions of both hosts killed",
        "precopy stopping: journal locked for 3 s",
        "precopy running: source host crashes",
        "postcopy over: migration link cut for 1 s",
        "mirror released: runner killed",
        "static pass1: target's QEMU killed",
    }
)
"""The cells that script/test runs, a few of each kind; script/soak matrix runs all."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix."""

    mode: Mode
    point: str
    fault: str
    end: End
    limbo: bool = False
    """Whether that comes only when the fault is mended: until then nobody can know, and the guest is left alone."""

    @property
    def id(self) -> str:
        """What it is called."""
        return f"{self.mode} {self.point}: {self.fault}"


def read(table: str) -> tuple[Cell, ...]:
    """Return the cells of a table."""
    cells, fault = [], ""
    for line in table.strip().splitlines():
        if not line.startswith(" "):
            fault = line
            continue
        mode, *pairs = line.split()
        for pair in pairs:
            point, _, end = pair.partition("=")
            assert point in POINTS, pair
            *limbo, last = end.split(">")
            cells.append(Cell(Mode(mode), point, fault, End(last), limbo=limbo == ["limbo"]))
    return tuple(cells)


CELLS: Final = read(TABLE)

RETURNS: Final = Cell(Mode.POSTCOPY, "over", "migration link cut for 3 s", End.MOVED)
"""What is carried out again and again for how soon a guest that has gone over gets memory after its link's return."""
