"""The process that carries one migration, and the tiny supervisor that starts it anew when it dies.

`python -m godwit.runner ID VM [--wait]` is the supervisor: it takes the guest's lock, loads everything, and forks the
runner. A runner that dies by whatever cause is followed by another within milliseconds, which takes the story up where
the journal left it. The lock is an flock that both processes share, so it lasts as long as either of them lives.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Final

from godwit import app
from godwit.errors import GodwitError, SupersededError
from godwit.logs import keep_short
from godwit.plaintext import one_line
from godwit.runners import GO, WAIT, lock_path, take_lock

if TYPE_CHECKING:
    from types import FrameType

RESTARTS: Final = 8
"""Times that a dying runner is followed by another, before its migration is left to the next command."""

_LONGEST_PAUSE: Final = 5.0
_QUICK: Final = 3
_EXIT_BUSY: Final = 75
_EXIT_SUPERSEDED: Final = 76


def supervise(identifier: str, vm: str, *, wait: bool = False) -> int:
    """Run a migration to its end, starting over after every death of the runner. Returns an exit status.

    With `wait` the migration may not be written down yet: its supervisor loads everything, and begins when it is told.
    """
    gc.disable()  # loading makes no garbage, and to look for some again and again takes a fifth of its time
    if wait:
        app.preload()
        if sys.stdin.buffer.readline() != GO:
            return 0
        _let_go_of_input()
    if take_lock(lock_path(app.home(), vm)) is None:
        _say(f"another runner holds {vm}")
        return _EXIT_BUSY
    app.preload()
    gc.collect()
    gc.freeze()  # what is loaded is no garbage: looking for some would give each process pages of its own
    gc.enable()
    for restart in range(RESTARTS):
        keep_short(sys.stderr.fileno())
        child = os.fork()
        if child == 0:
            os._exit(_run(identifier))
        _, wait_status = os.waitpid(child, 0)
        status = os.waitstatus_to_exitcode(wait_status)
        if status in {0, _EXIT_SUPERSEDED}:
            return status
        _say(f"runner {child} of {identifier} ended with {status}")
        if restart >= _QUICK:
            time.sleep(min(_LONGEST_PAUSE, 0.2 * 2**restart))
    return 1


def _run(identifier: str) -> int:
    """Be the runner: carry the migration to its end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _unheeded)  # not SIG_IGN, which hooks and all that they start would inherit
    try:
        asyncio.run(app.run_migration(identifier))
    except SupersededError as error:
        _say(error.message)
        return _EXIT_SUPERSEDED
    except GodwitError as error:
        _say(f"{error.code}: {error.message}")
        return 1
    except Exception as error:  # noqa: BLE001 - the outermost frame of a process: its log gets the story, its status the fact
        for line in "".join(traceback.format_exception(error)).splitlines():
            _say(f"  {line}")
        return 1
    return 0


def _unheeded(number: int, frame: FrameType | None) -> None:
    """Do nothing: the migration is to go on."""
    del number, frame


def _let_go_of_input() -> None:
    """Read from nowhere from now on, as a process of its own does."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, sys.stdin.fileno())
    os.close(nowhere)


def _say(text: str) -> None:
    """Write a line to the runner's log, which is its standard error."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {one_line(text)}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1], sys.argv[2], wait=WAIT in sys.argv[3:]))
