"""Where the command begins: what a move needs and takes long to load begins to load before its words are understood."""

from __future__ import annotations

import io
import os
import sys


def main() -> int:
    """Run the command line of this process and return its exit status; never lets a traceback out."""
    keep_descriptors()
    from godwit import app  # noqa: PLC0415 - nothing may be opened before
    from godwit.identifiers import new_identifier  # noqa: PLC0415 - as above
    from godwit.runners import RunnerProcesses  # noqa: PLC0415 - as above

    runners = RunnerProcesses(app.home())
    match sys.argv[1:]:
        case ["migrate", vm, _, *_]:  # a guess that costs little: who only asks for help wakes nobody up
            runners.prepare(new_identifier(vm), vm)
    try:
        from godwit.cli.main import main as commands  # noqa: PLC0415 - takes a quarter of a second

        return commands()
    finally:
        runners.release()


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
