"""Checks of devices that are tied to their host, and of ports that only one process of a host can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.direct import taken
from godwit.core.preflight.rows import found
from godwit.model import Bond

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import BondFacts, Finding, ListenerFacts

_CODES: Final = {
    Bond.VHOST_USER: "vhost-user",
    Bond.VIRTIOFS: "virtiofs",
    Bond.SHARED_FOLDER: "shared-folder",
    Bond.USB_HOST: "usb-host",
}


def device_findings(e: Evidence) -> Iterator[Finding]:
    """Yield the devices that do not simply move along, and ports that are taken."""
    away = {device.name for device in taken(e.policy, e.guest.direct)}
    for bond in e.guest.needs.bonds:
        if bond.kind in _CODES and bond.name not in away:
            yield found(_CODES[bond.kind], bond.name, _what(e, bond), _mend(e, bond))
    yield from _ports(e)


def _what(e: Evidence, bond: BondFacts) -> str:
    held = f" ({bond.holds} on {e.source.name})" if bond.holds else f" (on {e.source.name})"
    words = {
        Bond.VHOST_USER: "takes its other half from a program",
        Bond.VIRTIOFS: "is a folder that virtiofsd serves",
        Bond.SHARED_FOLDER: "is a folder of the host",
        Bond.USB_HOST: "is a USB device of the host",
    }
    return f"{bond.name} of {e.vm.name} {words[bond.kind]}{held}"


def _mend(e: Evidence, bond: BondFacts) -> str:
    at = bond.holds or "the same place"
    unplug = f"godwit monitor {e.vm.name} -c 'device_del {bond.name}'"
    if bond.kind is Bond.VHOST_USER:
        return f"start that program so that it listens at {at}  (on {e.target.name}), before the move"
    if bond.kind is Bond.VIRTIOFS:
        return f"start virtiofsd for the same folder at {at}  (on {e.target.name}), or unmount it and {unplug}"
    if bond.kind is Bond.SHARED_FOLDER:
        return f"umount -t 9p -a  (in the guest), and have {at} on {e.target.name}, too"
    return f"{unplug}, and plug it in again from {e.target.name} afterwards"


def _ports(e: Evidence) -> Iterator[Finding]:
    needs = e.guest.needs
    for code, wanted, mend in (
        ("display-port", needs.displays, "godwit monitor {vm} -c 'info vnc'  says its port after the move"),
        ("port-taken", needs.listens, "ss -Hltnp sport = :{port}  (on {target}) names who has it: end that"),
    ):
        for one in wanted:
            if any(_collide(one, other) for other in e.target.resources.listeners):
                yield found(
                    code,
                    one.name,
                    f"port {one.port} ({one.name} of {e.vm.name}) is taken on {e.target.name}",
                    mend.format(vm=e.vm.name, port=one.port, target=e.target.name),
                )


def _collide(one: ListenerFacts, other: ListenerFacts) -> bool:
    """Say whether two cannot listen at once: at one port of one address, or of all of them."""
    return one.port == other.port and (not one.address or not other.address or one.address == other.address)
