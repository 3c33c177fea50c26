"""Guests with a device that does not travel, and what the two hosts have that stands for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.model import DeviceChoice, DevicePolicy, PciFunction, Way

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from scenes import Move

    from godwit.hosts.fake import FakeHost

NAME: Final = "nic1"
FAILOVER: Final = f"vmxnet3,id={NAME},failover_pair_id=nic0"
EMULATED: Final = f"vmxnet3,id={NAME}"
FUNCTION: Final = f"vfio-pci,id={NAME},host=0000:01:00.1"
_KIND: Final = ("8086", "1520")
_MAC: Final = "52:54:00:00:00:77"
HERE, THERE = "0000:01:00.1", "0000:03:02.4"


def with_a_device(chance: Random, move: Move) -> Move:
    """Give a guest a device that does not travel, on a way on which that matters; it may never let go of it."""
    if move.upgrade or move.policy.way is Way.OFF:
        return move
    device = chance.choice((EMULATED, EMULATED, FUNCTION, FUNCTION, FAILOVER))
    if device is FAILOVER and move.policy.way is Way.STATIC:
        device = EMULATED
    choices = () if device is FAILOVER else (DeviceChoice(NAME, DevicePolicy.UNPLUG),)
    timeout = chance.choice((1.0, 5.0, 20.0))
    lets_go = chance.choice((0.02, 0.15, 0.15, 6.3, timeout * chance.uniform(0.9, 1.2), 25.0, 45.0, None))
    policy = replace(move.policy, devices=choices, unplug_timeout=timeout)
    workload = replace(move.workload, lets_go=lets_go)
    return replace(move, policy=policy, workload=workload, device=device, matched=chance.random() < 0.8)


def place(hosts: Mapping[str, FakeHost], move: Move) -> None:
    """Give hosts the functions that the guest has, or is to have."""
    if move.device == FUNCTION:
        own = PciFunction(HERE, *_KIND, "vfio-pci", "60", former="iavf", guest=move.guest, mac=_MAC, vlan=5)
        hosts["one"].pci[HERE] = own
        if move.matched:
            hosts["two"].pci[THERE] = PciFunction(THERE, *_KIND, "iavf", "70")
