"""The port `Fencer`: by programs of this machine, or by a management controller over Redfish.

That a request was accepted proves nothing: the host is off when it is said to be, by whom its record names.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from godwit.errors import FenceError
from godwit.hosts.redfish import Controller, is_off
from godwit.model import FenceCommand, Redfish
from godwit.ports import Power

if TYPE_CHECKING:
    from godwit.model import HostRecord

COMMAND_DEADLINE: Final = 60.0
"""Seconds that a program may take."""

OFF_DEADLINE: Final = 60.0
"""Seconds within which a host whose power was cut must be said to be off."""

HOST: Final = "{host}"
"""What stands for the host's name in an argument."""

_POLL: Final = 0.5
_WORDS: Final = 300
_LAST_WORDS: Final = 0.5
"""Seconds for which a program is listened to that has ended: what it left running may hold its end of the pipe."""


def _named(argv: tuple[str, ...], host: str) -> tuple[str, ...]:
    return tuple(argument.replace(HOST, host) for argument in argv)


class PowerFencer:
    """See `godwit.ports.Fencer`."""

    async def power(self, record: HostRecord) -> Power:
        """Ask whether the host is off; see the port."""
        match record.fence:
            case FenceCommand(status=argv):
                status, said = await _ran(_named(argv, record.name))
                return Power(status == 0, f"{_shown(argv, record)} ended with {status}{said}")
            case Redfish() as device:
                state = await asyncio.to_thread(Controller(device).power_state)
                return Power(is_off(state), f"{device.url} says that its power is {state}")
            case _:
                message = f"nothing is known that cuts the power of {record.name}"
                raise FenceError(message, remedy=f"godwit host fencing {record.name} --help")

    async def cut(self, record: HostRecord) -> Power:
        """Cut the host's power and wait until it is said to be off; see the port."""
        refusal = ""
        match record.fence:
            case FenceCommand(off=argv):
                status, said = await _ran(_named(argv, record.name))
                refusal = f"{_shown(argv, record)} ended with {status}{said}" if status else ""
            case Redfish() as device:
                refusal = await asyncio.to_thread(_forced_off, device)
            case _:
                pass
        end = time.monotonic() + OFF_DEADLINE
        while True:
            power = await self.power(record)
            if power.off:
                return power
            if refusal or time.monotonic() > end:
                message = f"{record.name} is not proven to be off: {refusal or power.said}"
                raise FenceError(message, remedy="see to its power by hand; until then nothing is known of it")
            await asyncio.sleep(_POLL)


def _forced_off(device: Redfish) -> str:
    """Cut the power; return the words of a refusal: some controllers refuse for a machine that is off already."""
    try:
        Controller(device).force_off()
    except FenceError as error:
        return error.message
    return ""


def _shown(argv: tuple[str, ...], record: HostRecord) -> str:
    """Name a program; its arguments may hold what is nobody's business."""
    return f"{_named(argv, record.name)[0]} (for {record.name})"


async def _ran(argv: tuple[str, ...]) -> tuple[int, str]:
    """Run a program and return its status and last words. Raises FenceError where it cannot be run, or does not end."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        message = f"{argv[0]} cannot be run: {getattr(error, 'strerror', None) or error}"
        raise FenceError(message, remedy="give the programs anew with godwit host fencing") from error
    assert process.stderr is not None  # noqa: S101 - it was started with a pipe; for the type checker
    words = bytearray()
    listening = asyncio.create_task(_listen(process.stderr, words))
    try:
        async with asyncio.timeout(COMMAND_DEADLINE):
            status = await process.wait()
    except TimeoutError as error:
        message = f"{argv[0]} did not end within {COMMAND_DEADLINE:.0f} s"
        raise FenceError(message) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await asyncio.wait([listening], timeout=_LAST_WORDS)
        listening.cancel()
    said = "".join(one if one.isprintable() else " " for one in words.decode(errors="replace"))
    text = " ".join(said.split())[-_WORDS:]
    return status, f": {text}" if text else ""


async def _listen(stream: asyncio.StreamReader, words: bytearray) -> None:
    """Keep the last of what a program says, however much that is."""
    while chunk := await stream.read(1 << 14):
        words += chunk
        del words[: -(1 << 14)]
