"""Checks of devices that do not travel: what was chosen for each, and whether that can be done."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from godwit.core.direct import TAKEN, policy_of
from godwit.core.preflight.rows import found
from godwit.model import DevicePolicy, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import DirectFacts, Finding


def direct_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what becomes of devices that do not travel, and what keeps that from being done."""
    known = {device.name: device for device in e.guest.direct}
    for choice in e.policy.devices:
        # What a definition says of a NIC that a move has left behind keeps nothing from moving.
        if choice.device not in known and choice.policy in TAKEN and choice not in e.vm.devices:
            has = ", ".join(sorted(known)) or "none with a name"
            what = f"{e.vm.name} has no NIC and no part of its host called {choice.device}"
            yield found("device-unknown", choice.device, what, f"it has: {has}")
    for device in e.guest.direct:
        policy = policy_of(e.policy, device)
        if policy is DevicePolicy.REFUSE:
            what = f"{device.name} of {e.vm.name} ({device.driver}) does not travel"
            yield found("device-tied", device.name, what, _unplug(e, device.name))
        elif policy in TAKEN and e.policy.way is Way.OFF and device.function:
            what = f"{e.vm.name} is to be switched off for its way, and has {device.function} of {e.source.name}"
            mend = f"move it without --off, or take it out before: godwit device detach {e.vm.name} {device.name}"
            yield found("device-off", device.name, what, mend)
        elif policy in TAKEN and e.policy.way is not Way.OFF:
            yield from _can_be_taken(e, device, policy)


def _can_be_taken(e: Evidence, device: DirectFacts, policy: DevicePolicy | None) -> Iterator[Finding]:
    fails_over = policy is DevicePolicy.FAILOVER
    if fails_over and not device.partner:
        what = f"{device.name} of {e.vm.name} has no virtio NIC that stands in for it (failover_pair_id)"
        yield found("device-alone", device.name, what, _unplug(e, device.name))
    elif not fails_over and device.partner:
        what = f"QEMU itself takes {device.name} of {e.vm.name} out ({device.partner} stands in for it)"
        mend = f"leave --device {device.name}=unplug away"
        yield found("device-paired", device.name, what, mend)
    elif fails_over and e.policy.way is Way.STATIC:
        what = f"{e.vm.name} is to stand still, and so cannot let go of {device.name} when QEMU asks for it"
        yield found("device-stands-still", device.name, what, "move it without --static")
    elif not device.pluggable:
        what = f"{device.name} of {e.vm.name} sits on the root bus of a q35 machine"
        mend = "start the guest with it on a root port: -device pcie-root-port,id=rp1 -device DRIVER,bus=rp1"
        yield found("device-fixed", device.name, what, mend)
    else:
        how = f"QEMU takes {device.name} out" if fails_over else f"{device.name} is unplugged"
        what = f"{how} of {e.vm.name} for its way, and plugged in again on {e.target.name}"
        yield found("device-unplugged", device.name, what, "see in the guest that its bond, or its other NIC, works")
        if device.function and device.name not in dict(e.matches):
            yield from _stays_out(e, device)


def _stays_out(e: Evidence, device: DirectFacts) -> Iterator[Finding]:
    what = f"{e.target.name} has no free function that stands for {device.name} ({device.function})"
    wanted = f"--device {device.name}=unplug:ADDRESS|VENDOR:DEVICE|POOL"
    mend = f"name one: godwit migrate {e.vm.name} {e.target.name} {wanted}"
    yield found("device-no-match", device.name, what, mend)


def _unplug(e: Evidence, name: str) -> str:
    return f"godwit migrate {e.vm.name} {e.target.name} --device {name}=unplug"


def covered(e: Evidence, blocker: str) -> bool:
    """Say whether what QEMU names is a device that will not be there when its guest travels, or is refused by name."""
    away = [device for device in e.guest.direct if policy_of(e.policy, device) is not None]
    names = {word for device in away for word in (device.name, device.function) if word}
    parts = [device for device in e.guest.direct if device.function]
    all_away = bool(parts) and all(device in away for device in parts)
    named = any(re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", blocker) for name in names)
    return named or (all_away and "vfio" in blocker.lower())
