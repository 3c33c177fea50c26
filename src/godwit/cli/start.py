"""Where the command begins: what a move needs and takes long to load begins to load before its words are understood."""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from godwit.runners import RunnerProcesses

_ASKS: Final = {"--dry-run", "--help", "-h"}
"""Words of one who moves nothing."""

_COLLECTED_AFTER: Final = 100_000
"""Objects after which rubbish is looked for. Loading makes several of these, all of which stay, and to look through all
of them after every 700 takes a fifth of a short command's time."""


def main() -> int:
    """Run the command line of this process and return its exit status; never lets a traceback out."""
    keep_descriptors()
    gc.set_threshold(_COLLECTED_AFTER)
    runners = None
    match sys.argv[1:]:
        case ["migrate", vm, _, *_] if not _ASKS & set(sys.argv):
            runners = _preparing(vm)
    try:
        from godwit.cli.main import main as commands  # noqa: PLC0415 - takes a quarter of a second

        return commands()
    finally:
        if runners is not None:
            runners.release()
        gc.freeze()  # the process ends: what it holds goes with it, and is not looked through once more


def _preparing(vm: str) -> RunnerProcesses | None:
    """Let a supervisor load for a move of `vm`, which is a guess; None where nobody knows Godwit's folder."""
    from godwit import app  # noqa: PLC0415 - nothing may be opened before
    from godwit.identifiers import new_identifier  # noqa: PLC0415 - as above
    from godwit.runners import RunnerProcesses  # noqa: PLC0415 - as above

    try:
        runners = RunnerProcesses(app.home())
    except RuntimeError:  # a user without a home: the command itself says what that means
        return None
    runners.prepare(new_identifier(vm), vm)
    return runners


def keep_descriptors() -> None:
    """Fill closed standard streams, so that no file that is opened later becomes one of them by accident."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - lives as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
