"""The human monitor of a simulated QEMU: the few commands that the simulation has, in QEMU 10's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import MonitorCommandError
from godwit.hosts.fakestream import LIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.hosts.fakeqemu import FakeQemu

_HELP: Final = {
    "cont": "cont|c  -- resume emulation\n",
    "info": "info subcommand -- show various information about the system state\n",
    "migrate": "migrate [-d] [-r] uri -- migrate to URI (using -d to not wait for completion)\n",
    "migrate_cancel": "migrate_cancel  -- cancel the current VM migration\n",
    "migrate_set_parameter": "migrate_set_parameter parameter value -- Set the parameter for migration\n",
    "stop": "stop|s  -- stop emulation\n",
}
_STATES: Final = {"running": "running", "paused": "paused"}
_UNITS: Final = {"max-bandwidth": 1 << 20, "downtime-limit": 1}


def answer(qemu: FakeQemu, line: str) -> str:
    """Carry a line out and return what QEMU prints."""
    name, *words = line.split() or [""]
    command = _COMMANDS.get(name)
    if command is None:
        return _unknown(name) if name else ""
    try:
        return command(qemu, words) or ""
    except MonitorCommandError as error:
        return f"Error: {error.message.partition('`: ')[2]}\n"


def _unknown(name: str) -> str:
    return f"unknown command: '{name}'\n"


def _number(text: str, unit: int) -> int:
    return int(text[:-1]) if text.endswith("B") else int(text) * unit


def _help(_: FakeQemu, words: list[str]) -> str:
    return "".join(_HELP.values()) if not words else _HELP.get(words[0]) or _unknown(words[0])


def _migrate(qemu: FakeQemu, words: list[str]) -> None:
    qemu.migrate(words[-1])


def _set_parameter(qemu: FakeQemu, words: list[str]) -> None:
    name, value = words
    qemu.set_parameters({name: _number(value, _UNITS.get(name, 1))})


def _object_add(qemu: FakeQemu, words: list[str]) -> None:
    pairs = dict(word.partition("=")[::2] for word in words[0].split(","))
    qemu.objects[pairs["id"]] = pairs.get("identity", "")


def _qom_get(qemu: FakeQemu, words: list[str]) -> str:
    name = words[0].removeprefix("/objects/")
    return f'"{qemu.objects[name]}"\n' if name in qemu.objects else f"Error: Device '{words[0]}' not found\n"


def _qom_set(qemu: FakeQemu, words: list[str]) -> str:
    name = words[0].removeprefix("/objects/")
    if name not in qemu.objects:
        return f"Error: Device '{words[0]}' not found\n"
    qemu.objects[name] = words[2]
    return ""


def _object_del(qemu: FakeQemu, words: list[str]) -> str:
    return "" if qemu.objects.pop(words[0], None) is not None else f"Error: object '{words[0]}' not found\n"


def _settings(qemu: FakeQemu, subject: str) -> str | None:
    if subject == "migrate_capabilities":
        return "".join(f"{name}: {'on' if state else 'off'}\n" for name, state in qemu.capabilities.items())
    if subject == "migrate_parameters":
        return f"max-bandwidth: {qemu.parameters['max-bandwidth']} bytes/second\n"
    if subject == "block-jobs":
        views = [(job, mirror.view()) for job, mirror in qemu.blocks.mirrors.items()]
        lines = [f"Type mirror, device {job}: Completed {view.done} of {view.needed} bytes\n" for job, view in views]
        return "".join(lines) or "No active jobs\n"
    return None


def _info(qemu: FakeQemu, words: list[str]) -> str:
    subject = " ".join(words)
    settings = _settings(qemu, subject)
    if settings is not None:
        return settings
    if subject == "status":
        return f"VM status: {_STATES.get(qemu.raw, f'paused ({qemu.raw})')}\n"
    if subject == "version":
        return "10.0.2 (simulated)\n"
    if subject != "migrate":
        return _unknown(f"info {subject}")
    if not qemu.migration:
        return ""
    why = f" ({qemu.detail})" if qemu.migration == "failed" and qemu.detail else ""
    lines = [f"Migration status: {qemu.migration}{why}"]
    if qemu.stream is not None and qemu.migration in LIVE:
        sample = qemu.stream.sample()
        lines += [
            f"transferred ram: {sample.transferred >> 10} kbytes",
            f"remaining ram: {sample.remaining >> 10} kbytes",
            f"total ram: {sample.total >> 10} kbytes",
        ]
    return "\n".join(lines) + "\n"


_COMMANDS: Final[dict[str, Callable[[FakeQemu, list[str]], str | None]]] = {
    **dict.fromkeys(("help", "?"), _help),
    **dict.fromkeys(("stop", "s"), lambda qemu, _: qemu.stop()),
    **dict.fromkeys(("cont", "c"), lambda qemu, _: qemu.cont()),
    "info": _info,
    "migrate": _migrate,
    "object_add": _object_add,
    "object_del": _object_del,
    "qom-get": _qom_get,
    "qom-set": _qom_set,
    "migrate_cancel": lambda qemu, _: qemu.cancel(),
    "migrate_set_parameter": _set_parameter,
}
