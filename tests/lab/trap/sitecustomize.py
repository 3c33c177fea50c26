"""Traps in a real runner: something happens at a named instant of its life, and nowhere else.

Python loads this file at the start of every process that has its folder on PYTHONPATH. Only in a runner it looks into
the file that GODWIT_TEST_TRAPS names. A trap springs once, whichever runner reaches it first.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

VARIABLE = "GODWIT_TEST_TRAPS"
HOLD_DEADLINE = 60.0

Trap = dict[str, Any]


def sprung(trap: Trap) -> bool:
    """Take the trap if nobody has sprung it yet."""
    try:
        os.close(os.open(trap["mark"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def writes_the_journal() -> bool:
    """Say whether a thread of this process is writing; who is stopped then keeps everybody from writing.

    What that is like is tried by tests/test_take_over.py; here it would be a matter of luck.
    """
    home = Path(os.environ["GODWIT_HOME"])
    inodes = {(home / name).stat().st_ino for name in ("journal.db-shm", "journal.turn")}
    mine = [line.split() for line in Path("/proc/locks").read_text().splitlines() if f" {os.getpid()} " in line]
    return any("WRITE" in words and int(words[5].rpartition(":")[2]) in inodes for words in mine if "->" not in words)


async def spring(trap: Trap) -> None:
    """Do what the trap is there for."""
    if trap["does"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif trap["does"] == "stop":
        while writes_the_journal():
            time.sleep(0.001)  # noqa: ASYNC251 - nothing may be begun meanwhile
        os.kill(os.getpid(), signal.SIGSTOP)
    elif trap["does"] == "kill-all":
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    elif trap["does"] == "run":
        subprocess.run(["sh", trap["mark"] + ".sh"], check=True)  # noqa: ASYNC221 - the world must wait for it
    elif trap["does"] == "ask":
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(trap["mark"] + ".sock")
            asking.recv(1)  # the world is changed meanwhile
    elif trap["does"] == "hold":
        for _ in range(int(HOLD_DEADLINE / 0.01)):
            if Path(trap["mark"] + ".go").exists():  # noqa: ASYNC240 - a look at a local file
                return
            await asyncio.sleep(0.01)
    else:
        message = f"no trap does {trap['does']}"
        raise ValueError(message)


def fits(trap: Trap, arguments: tuple[Any, ...]) -> bool:
    """Say whether the call is the one that the trap waits for: a transition into its phase, or any call."""
    phase = trap.get("phase")
    return not phase or any(getattr(argument, "phase", None) == phase for argument in arguments)


def armed(call: Callable[..., Awaitable[Any]], trap: Trap) -> Callable[..., Awaitable[Any]]:
    """Return `call` with the trap before or after it."""

    @functools.wraps(call)
    async def trapped(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - it stands for any method
        catch = fits(trap, arguments)
        if catch and trap["when"] == "before" and sprung(trap):
            await spring(trap)
        result = await call(*arguments, **options)
        if catch and trap["when"] == "after" and sprung(trap):
            await spring(trap)
        return result

    return trapped


def arm(path: Path) -> None:
    """Arm every trap of the file: each names a method as module:Class.method."""
    for trap in json.loads(path.read_text()):
        if trap["does"] == "set":
            module, _, name = trap["at"].partition(":")
            setattr(import_module(module), name, trap["value"])
            continue
        module, _, place = trap["at"].partition(":")
        owner, _, method = place.partition(".")
        kind = getattr(import_module(module), owner)
        setattr(kind, method, armed(getattr(kind, method), trap))


if "godwit.runner" in sys.orig_argv and os.environ.get(VARIABLE):
    arm(Path(os.environ[VARIABLE]))
