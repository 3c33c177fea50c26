"""What in a command line cannot be repeated elsewhere: file descriptors that were inherited, and other owners. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.qemu.paths import split

if TYPE_CHECKING:
    from collections.abc import Iterable

    from godwit.model import Tap
    from godwit.qemu.options import Option

_DESCRIPTOR_KEYS: Final = frozenset({"fd", "fds", "vhostfd", "vhostfds", "sock_fd"})
_CARRIERS: Final = frozenset("netdev net nic chardev fsdev virtfs device object blockdev drive mon".split())  # noqa: SIM905
_DESCRIPTOR_PATH: Final = re.compile(r"(^|[=:,\"])(/dev/fdset/|/dev/fd/|/proc/self/fd/)\d+")
_LIBVIRT_IDS: Final = frozenset({"masterKey0", "charmonitor"})


def inherited_descriptors(found: Iterable[Option], macvtaps: Iterable[Tap] = ()) -> tuple[str, ...]:
    """Return each option that uses a file descriptor which somebody else opened and QEMU inherited.

    Those of `macvtaps` are left out: whoever starts the guest elsewhere opens them there.
    """
    own = {str(tap.macvtap.descriptor) for tap in macvtaps if tap.macvtap is not None}
    return tuple(
        " ".join(option.words()) for option in found if _inherits(option) and opened_macvtap(option) not in own
    )


def opened_macvtap(option: Option) -> str | None:
    """Return the descriptor of an option as Godwit writes it for a macvtap; None for any other."""
    if option.name != "netdev":
        return None
    pairs = dict(split(option).items())
    used = _DESCRIPTOR_KEYS & pairs.keys()
    return pairs.get("fd") if pairs.get("type") == "tap" and used == {"fd"} else None


def owned_by_libvirt(found: Iterable[Option]) -> bool:
    """Say whether libvirt started this QEMU: by the identifiers that its qemu_command.c gives to every guest."""
    return any(option.name in {"object", "chardev"} and split(option).get("id") in _LIBVIRT_IDS for option in found)


def _inherits(option: Option) -> bool:
    if option.name == "add-fd":
        return True
    if option.value is None or option.name in {"incoming", "append"}:
        return False
    if _DESCRIPTOR_PATH.search(option.value):
        return True
    if option.name not in _CARRIERS:
        return False
    pairs = dict(split(option).items())
    return any(key in _DESCRIPTOR_KEYS for key in pairs) or any(
        key.endswith((".type", "type")) and value == "fd" for key, value in pairs.items() if "." in key
    )
