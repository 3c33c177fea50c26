"""What a QEMU does when its guest switches itself off, or reboots: by its command line, and by `set-action` (6.0).

A QEMU that is told to pause stays in the run state `shutdown`, with its disks flushed and its mirrors alive; there
`cont` is refused until `system_reset`, which leads to `prelaunch` (system/runstate.c). With `-no-reboot` a reset would
end it, so that is taken back for as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.qemu.commandline import parse
from godwit.qemu.options import CommandLineError
from godwit.qemu.paths import split

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTLIVE: Final = {"shutdown": "pause", "reboot": "reset"}
"""The arguments of `set-action` with which QEMU outlives a guest that switches itself off."""


def actions_of(argv: Sequence[str]) -> dict[str, str]:
    """Return what a command line says, as the arguments of `set-action` that bring it about again.

    Of options that contradict each other the last one counts; of a command line that cannot be read, QEMU's defaults.
    """
    actions = {"shutdown": "poweroff", "reboot": "reset"}
    try:
        found = parse(argv)
    except CommandLineError:
        return actions
    for option in found:
        match option.name:
            case "no-shutdown":
                actions["shutdown"] = "pause"
            case "no-reboot":
                actions["reboot"] = "shutdown"
            case "action":
                actions |= {key: value for key, value in split(option).items() if key in actions and value}
            case _:
                pass
    return actions
