"""Names of devices, and which functions of a host belong to which pool. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.identifiers import is_name
from godwit.model import DiskPlan, FunctionPlan, NicPlan, PciFunction

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from godwit.model import DevicePlan, DevicePool, Tap

_PREFIXES: Final = ((NicPlan, "nic"), (DiskPlan, "disk"), (FunctionPlan, "host"))
_VIRTUAL: Final = "/*"
_HEXADECIMAL: Final = frozenset("0123456789abcdef")
_WHOLE: Final = len("0000:00:00.0")


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A PCI function of a host, and the pools that it belongs to."""

    function: PciFunction
    pools: tuple[str, ...]

    @property
    def free(self) -> bool:
        """Whether it can be given to a guest now."""
        one = self.function
        return not one.guest and not one.up and not one.vfs and not one.held and bool(one.group)


# -- names -----------------------------------------------------------------------------------------------------------


def tap_name(name: str, index: int) -> str:
    """Return the host interface of a guest's NIC: at most 15 characters (IFNAMSIZ), and its own for every guest."""
    return f"gw{hashlib.sha256(name.encode()).hexdigest()[:8]}{index}"


def free_tap(name: str, taken: Iterable[Tap]) -> str:
    """Return a tap for one more NIC of a guest."""
    used = {tap.interface for tap in taken}
    return next(tap for tap in (tap_name(name, index) for index in range(len(used) + 1)) if tap not in used)


def own_mac(vm: str, identifier: str) -> str:
    """Return a MAC for a guest's device: the same on every host, and, as good as certainly, nobody else's."""
    digest = hashlib.sha256(f"{vm}/{identifier}".encode()).digest()
    return "52:54:00:" + ":".join(f"{octet:02x}" for octet in digest[:3])


def named(plan: DevicePlan, vm: str, taken: Collection[str]) -> DevicePlan:
    """Return the plan with a name for the device, and a MAC for a NIC. Raises InputError for a name that is taken."""
    prefix = next(prefix for kind, prefix in _PREFIXES if isinstance(plan, kind))
    identifier = plan.identifier or free_name(prefix, taken)
    if not is_name(identifier):
        message = f"{identifier[:80]!r} cannot be the name of a device"
        raise InputError(message, remedy="use at most 64 letters, digits, _ . - and begin with a letter or digit")
    if _is_taken(identifier, taken):
        message = f"{vm} has {identifier} already, or what was behind it"
        raise InputError(message, remedy=f"choose another --id; godwit device list {vm} names what there is")
    plan = replace(plan, identifier=identifier)
    return replace(plan, mac=own_mac(vm, identifier)) if isinstance(plan, NicPlan) and not plan.mac else plan


def free_name(prefix: str, taken: Collection[str]) -> str:
    """Return the first of prefix0, prefix1 ... that neither a device has, nor what is behind one."""
    return next(
        name for name in (f"{prefix}{number}" for number in range(len(taken) + 1)) if not _is_taken(name, taken)
    )


def _is_taken(name: str, taken: Iterable[str]) -> bool:
    return any(one == name or one.startswith(f"{name}-") for one in taken)


def without_functions(argv: Sequence[str], addresses: Collection[str]) -> tuple[str, ...]:
    """Return a command line without those of its `-device vfio-pci` that are functions of these addresses."""
    kept: list[str] = []
    for word in argv:
        if kept and kept[-1] == "-device" and _function_in(word) in addresses:
            kept.pop()
        else:
            kept.append(word)
    return tuple(kept)


def _function_in(device: str) -> str:
    """Return the address of the function that a `-device` gives away, as text or as JSON; empty for another device."""
    if not re.search(r"\bvfio-pci\b", device):
        return ""
    found = re.search(r"""\bhost["']?\s*[=:]\s*["']?([0-9a-fA-F:]+\.[0-7])""", device)
    return full_address(found[1]) if found else ""


# -- pools -----------------------------------------------------------------------------------------------------------


def with_pools(functions: Iterable[PciFunction], pools: Sequence[DevicePool]) -> tuple[HostFunction, ...]:
    """Put the names of the pools to each function."""
    return tuple(
        HostFunction(one, tuple(pool.name for pool in pools if any(_selects(words, one) for words in pool.functions)))
        for one in functions
    )


def substitute(
    wanted: str, functions: Iterable[PciFunction], pools: Sequence[DevicePool], beside: Collection[str] = ()
) -> PciFunction | None:
    """Return a free function that is wanted, by a pool's name or as a pool names functions, and is none of `beside`.

    One that is bound for guests already goes first.
    """
    fitting = (
        one.function
        for one in with_pools(functions, pools)
        if one.free
        and one.function.address not in beside
        and (wanted in one.pools or _selects(full_address(wanted), one.function))
    )
    return min(fitting, key=lambda one: (one.driver != "vfio-pci", one.address), default=None)


def full_address(words: str) -> str:
    """Return a PCI address with its domain, as QEMU and lspci let people leave out; anything else as it is."""
    text = words.strip().lower()
    return f"0000:{text}" if len(text.split("/")[0]) == _WHOLE - len("0000:") and text.count(":") == 1 else text


def _selects(selector: str, function: PciFunction) -> bool:
    if selector.endswith(_VIRTUAL):
        return function.physical == selector.removesuffix(_VIRTUAL)
    return selector in {function.address, function.kind}


def selector(words: str) -> str:
    """Return what names functions, in small letters. Raises InputError for what names none."""
    text = words.strip().lower()
    kind = text.split(":")
    is_kind = [len(part) for part in kind] == [4, 4] and all(set(part) <= _HEXADECIMAL for part in kind)
    address = text.removesuffix(_VIRTUAL)
    domain, _, rest = address.partition(":")
    bus, _, place = rest.partition(":")
    slot, _, number = place.partition(".")
    parts = {domain: 4, bus: 2, slot: 2, number: 1}
    is_address = len(address) == _WHOLE and all(
        len(part) == length and set(part) <= _HEXADECIMAL for part, length in parts.items()
    )
    if is_kind or is_address:
        return text
    message = f"{words!r} names no PCI functions"
    remedy = "write 0000:3b:00.0/* (all virtual functions of that one), 0000:3b:02.0, or 8086:154c (vendor and device)"
    raise InputError(message, remedy=remedy)


def joined(taps: Sequence[Tap], more: Sequence[Tap]) -> tuple[Tap, ...]:
    """Return both, each interface once."""
    return tuple({tap.interface: tap for tap in (*taps, *more)}.values())
