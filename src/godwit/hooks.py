"""Hooks as files: `hooks/` in Godwit's folder holds a program for each instant of a move; see docs/run-hooks.md.

They run as whoever runs Godwit, in practice root, so a file that anybody else could have written is not run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core.hooks import Hook
from godwit.errors import InputError
from godwit.plaintext import lines
from godwit.ports import HookRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LONGEST_SAID: Final = 4096
"""Bytes of a hook's output that are kept: the end of it."""

GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL."""

_HANDED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")
"""What of the runner's environment a hook gets; the rest of it may hold what is nobody's business."""

_LAST_WORDS: Final = 1.0
"""Seconds for which what a hook said last is waited for: what it started may hold its output open for ever."""

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class FileHooks:
    """The hooks below the folder `home`; implements `godwit.ports.Hooks`."""

    home: Path

    @property
    def folder(self) -> Path:
        """Where the hooks are."""
        return self.home / "hooks"

    def troubles(self) -> Mapping[str, str]:
        """Return what of the folder may not be run, and why; see the port."""
        try:
            names = sorted(path.name for path in self.folder.iterdir())
        except FileNotFoundError:
            return {}
        except OSError as error:
            return {"hooks": f"{self.folder} cannot be read: {error.strerror}"}
        known = {hook.value for hook in Hook}
        found = {name: why for name in names if name in known and (why := self._trouble(name))}
        return found | {name: why for name in names if name not in known and (why := _misnamed(name, known))}

    def _trouble(self, name: str) -> str:
        """Return why a hook may not be run, or cannot even be looked at; empty where it may, or has gone meanwhile."""
        try:
            return self._why_not(name)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{self.folder / name} cannot be looked at: {error.strerror}"

    def _why_not(self, name: str) -> str:
        """Return why a hook that is there may not be run; empty where it may."""
        for path in (self.folder, self.folder / name):
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                return f"{path} is a link: put the program itself there"
            if found.st_uid not in {os.geteuid(), 0}:
                return f"{path} belongs to user {found.st_uid}: chown {os.geteuid()} {path}"
            if found.st_mode & _OTHERS_WRITE:
                mode = stat.S_IMODE(found.st_mode)
                return f"others can write to {path} (mode {mode:04o}): chmod go-w {path}"
        if not stat.S_ISREG(found.st_mode):
            return f"{path} is no file"
        return "" if os.access(path, os.X_OK) else f"{path} is not executable: chmod +x {path}"

    async def run(self, name: str, environment: Mapping[str, str], deadline: float) -> HookRun | None:
        """Run a hook to its end; see the port. Raises InputError."""
        path = self.folder / name
        try:
            why = self._why_not(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            why = f"{path} cannot be looked at: {error.strerror}"
        if why:
            raise InputError(why)
        return await _run(path, {**self._handed_on(), **environment}, deadline)

    def _handed_on(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **kept} | {
            "GODWIT_HOME": str(self.home)
        }


def _misnamed(name: str, known: set[str]) -> str:
    """Return what is wrong with a name that was meant to be a hook's; others, such as a README, are let be."""
    meant = name.partition(".")[0].replace("_", "-").lower()
    return f"{name} is no hook: call it {meant}" if meant in known and not name.endswith("~") else ""


def _command(path: Path, deadline: float) -> Iterator[str]:
    """Yield the command: should this runner die meanwhile, `timeout` (coreutils) still ends a hook that hangs."""
    guard = shutil.which("timeout")
    if guard is not None:
        yield from (guard, f"--kill-after={GRACE:g}", f"{deadline + 2 * GRACE:g}")
    yield str(path)


async def _run(path: Path, environment: Mapping[str, str], deadline: float) -> HookRun:
    began = time.monotonic()
    out, into = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(path, deadline),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=into,
            stderr=into,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        os.close(out)
        message = f"the hook {path} cannot be started: {error.strerror}"
        raise InputError(message, remedy="see its first line: #! and a program that is there") from None
    finally:
        os.close(into)
    said = bytearray()
    reading = asyncio.create_task(_read(out, said))
    status: int | None = None
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                status = await process.wait()
        if status is None:
            await _end(process)
    finally:
        waits = [reading]
        if process.returncode is None:  # cut off: whoever waited for it is gone
            _signal(process, signal.SIGKILL)
            waits.append(asyncio.create_task(_ended(process)))
        await asyncio.wait(waits, timeout=_LAST_WORDS)
        for one in waits:
            one.cancel()
    text = lines(bytes(said[-LONGEST_SAID:]).decode(errors="replace")).strip()
    return HookRun(status, text, time.monotonic() - began)


async def _read(out: int, said: bytearray) -> None:
    """Keep the end of what a hook says, however much that is."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(out, "rb"))
    try:
        while data := await reader.read(LONGEST_SAID):
            said += data
            del said[:-LONGEST_SAID]
    finally:
        transport.close()


async def _ended(process: asyncio.subprocess.Process) -> None:
    await process.wait()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a hook and all of its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(process, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await process.wait()
    _signal(process, signal.SIGKILL)  # what outlived its leader


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
