"""Who moves: QEMU by its own means, libvirt's virsh, and Godwit by its policies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class By(StrEnum):
    """Whose command is typed."""

    GODWIT = "godwit"
    VIRSH = "virsh"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A command and its options.

    `profiled` says that the guest is profiled before it is moved, `unknown` that all is forgotten which is known of it.
    """

    name: str
    words: str
    by: By
    options: tuple[str, ...] = ()
    profiled: bool = False
    unknown: bool = False


_POSTCOPY: Final = ("--postcopy", "--postcopy-after-precopy")

_OVER: Final = ("--allow", "postcopy", "--forbid", "throttle")

_ALL: Final = (
    Contestant("qemu", "QEMU's defaults", By.GODWIT, ("--qemu-defaults",)),
    Contestant("qemu-auto", "QEMU's auto-converge", By.GODWIT, ("--qemu-auto-converge",)),
    Contestant("virsh", "virsh migrate --live", By.VIRSH),
    Contestant("virsh-auto", "virsh, --auto-converge", By.VIRSH, ("--auto-converge",)),
    Contestant("virsh-postcopy", "virsh, --postcopy", By.VIRSH, _POSTCOPY),
    Contestant("unknown", "Godwit, of a guest that it does not know", By.GODWIT, unknown=True),
    Contestant("seamless", "Godwit, seamless", By.GODWIT, profiled=True),
    Contestant("postcopy", "Godwit, postcopy permitted and no throttle", By.GODWIT, _OVER, profiled=True),
    Contestant("fast", "Godwit, fast", By.GODWIT, ("--policy", "fast"), profiled=True),
    Contestant("gentle", "Godwit, gentle", By.GODWIT, ("--policy", "gentle"), profiled=True),
    Contestant("finish", "Godwit, finish", By.GODWIT, ("--policy", "finish"), profiled=True),
)

CONTESTANTS: Final = {contestant.name: contestant for contestant in _ALL}
SHORT: Final = ("virsh", "virsh-auto", "seamless")
