"""Taking devices from a guest for its move, and giving them back: through its monitor, and the hosts' functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.engine.matching import bind
from godwit.errors import (
    GodwitError,
    HostError,
    HostUnreachableError,
    HypervisorError,
    JournalError,
    SupersededError,
)
from godwit.model import DevicePolicy, RunState, Side, StreamStatus
from godwit.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from godwit.core.state import State
    from godwit.engine.actions import Actions
    from godwit.model import GuestView
    from godwit.ports import Guest

PERIOD: Final = 0.05
"""Seconds between looks at whether a guest has let go of its devices."""

LATE: Final = 30.0
"""Seconds for which a guest that did not let go in time is waited for on the way back: it may do so at any moment.

Nobody can take such a request back. Linux takes 5 s from the press of a slot's button until it acts (pciehp).
"""


WAITS: Final = "wait-unplug"
"""QEMU's word for a stream that waits until the guest has let go of a NIC."""


@dataclass(slots=True)
class Devices:
    """Takes devices from a guest, and gives them back.

    What this runner has asked the guest to let go of it knows; what a former one did, if it is `restarted`, nobody
    does.
    """

    actions: Actions
    restarted: bool = False
    _asked: set[str] = field(default_factory=set)

    async def unplug(self, command: e.UnplugDevices) -> e.Event:
        """Let the guest let go of its devices. Raises HypervisorError where it does not within the policy's time."""
        guest = await self.actions.sides.attach(Side.SOURCE)
        wanted = {device.name for device in command.devices}
        there = wanted & await guest.plugged()
        for name in sorted(there):
            self._asked.add(name)
            await guest.let_go(name)
            self._tell(f"the guest is to let go of {name}")
        began = self.actions.parts.clock.now()
        patience = self.actions.parts.spec.policy.unplug_timeout
        while there:
            self._raise_if_kept(there)
            if self.actions.parts.clock.now() >= began + patience:
                raise self._held(sorted(there), patience)
            await self.actions.parts.clock.sleep(PERIOD)
            there = wanted & await guest.plugged()
        took = self.actions.parts.clock.now() - began
        self._tell(f"the guest has let go of {', '.join(sorted(wanted))} after {format_duration(took)}")
        return e.Unplugged()

    async def still_held(self, state: State) -> e.GiveUp | None:
        """Say why a stream is to be taken back that waits for the guest to let go; None where it does not."""
        view = await self.actions.sides.look(Side.SOURCE)
        if WAITS not in view.raw:
            return None
        names = [device.name for device in state.devices if device.policy is DevicePolicy.FAILOVER]
        held = self._held(names, self.actions.parts.spec.policy.unplug_timeout)
        return e.GiveUp(held.code, held.message, held.remedy)

    def _raise_if_kept(self, names: Collection[str]) -> None:
        """Raise HypervisorError where the guest has said that it does not let go."""
        if kept := sorted(self.actions.sides.kept & set(names)):
            message = f"{self.actions.parts.vm.name} does not let go of {', '.join(kept)}: its kernel refused"
            raise HypervisorError(message, remedy="see the guest's kernel log; something there may be using it")

    def _held(self, names: Sequence[str], patience: float) -> HypervisorError:
        vm = self.actions.parts.vm.name
        message = f"{vm} did not let go of {', '.join(names)} within {format_duration(patience)}"
        remedy = (
            "see whether its kernel has hot-plug (pciehp or acpiphp) and whether it has booted, "
            "or allow more with --unplug-timeout"
        )
        return HypervisorError(message, remedy=remedy)

    async def plug(self, command: e.PlugDevices) -> e.Event:
        """See to it that the guest has its devices on that side; what it stays without is named, with what mends it.

        Raises HostError where nobody can tell.
        """
        parts = self.actions.parts
        try:
            left = await self._plugged(command)
        except (SupersededError, JournalError):
            raise
        except GodwitError as error:
            names, mends = _mends(parts.vm.name, command)
            where = parts.host(command.side).name
            message = f"{parts.vm.name} may be without {names} on {where}: {error.message}; {mends}"
            raise HostError(message) from error
        return e.Undone("PlugDevices", "; ".join(left))

    async def _plugged(self, command: e.PlugDevices) -> list[str]:
        side = command.side
        view = await self.actions.sides.look(side)
        if view.state is RunState.UNREACHABLE:
            message = f"it does not answer for the guest: {view.detail}"
            raise HostUnreachableError(message)
        if view.state is RunState.ABSENT:
            return []
        guest = await self.actions.sides.attach(side)
        if side is Side.TARGET:
            return await self._plugged_there(guest, command)
        left = await self._plugged_here(guest, command)
        return [*left, *self._kept_away(view, command)]

    def _kept_away(self, view: GuestView, command: e.PlugDevices) -> list[str]:
        """Name what QEMU does not give back: it plugs a pair's NIC in again where its stream failed, and only there.

        The QEMU of a guest that came by a move says "completed" of that one until it sends a stream itself.
        """
        if view.stream is not StreamStatus.COMPLETED or "stream_started" not in self.actions.ledger.marks:
            return []
        vm = self.actions.parts.vm.name
        return [
            f"{vm} is without {device.name}, which its QEMU took for a stream that then went through: the next move of "
            "the guest puts it in again, and so does to stop and to start it"
            for device in command.devices
            if device.policy is DevicePolicy.FAILOVER
        ]

    async def _plugged_here(self, guest: Guest, command: e.PlugDevices) -> list[str]:
        """Give the guest its own devices back. One that it was asked for, and still has, may go at any moment."""
        ours = {device.name: device for device in command.devices if device.policy is DevicePolicy.UNPLUG}
        may_go = set(ours) if self.restarted else set(ours) & self._asked
        end = self.actions.parts.clock.now() + LATE
        while True:
            troubles: list[GodwitError] = []
            for name in sorted(set(ours) - await guest.plugged()):
                try:
                    await guest.put_back(ours[name].here)
                except SupersededError:
                    raise
                except GodwitError as error:  # the others are given back all the same
                    troubles.append(error)
                    continue
                self._tell(f"{name} was plugged in again, on {self.actions.parts.source.name}")
                may_go.discard(name)
            if troubles:
                raise troubles[0]
            may_go -= self.actions.sides.kept
            if not may_go or self.actions.parts.clock.now() >= end:
                break
            await self.actions.parts.clock.sleep(PERIOD)
        vm = self.actions.parts.vm.name
        return [
            f"{vm} may yet let go of {name}, which it was asked to: should it, {plugging(vm, ours[name].here)}"
            for name in sorted(may_go)
        ]

    async def _plugged_there(self, guest: Guest, command: e.PlugDevices) -> list[str]:
        """Give the guest what stands for its devices on the target."""
        left, there, target = [], await guest.plugged(), self.actions.parts.target
        for device in command.devices:
            if device.name in there:
                continue
            if not device.there:
                left.append(f"{target.name} has nothing for {device.name}: {self.actions.parts.vm.name} is without it")
                continue
            if device.policy is DevicePolicy.FAILOVER:
                left.append(f"QEMU has not put {device.name} in on {target.name}: see the log of its QEMU there")
                continue
            try:
                if device.function:
                    await bind(self.actions.parts, (device,))
                await guest.put_back(device.there)
            except SupersededError:
                raise
            except GodwitError as error:
                mend = plugging(self.actions.parts.vm.name, device.there)
                left.append(f"{device.name} could not be plugged in on {target.name}: {error.message}; {mend}")
            else:
                self._tell(f"{device.name} was plugged in on {target.name}")
        return left

    def _tell(self, text: str) -> None:
        self.actions.note("device", text=text)


def plugging(vm: str, properties: str) -> str:
    """Return the command by which a person plugs a device in."""
    return f"godwit monitor {vm} -c 'device_add {properties}'"


def _mends(vm: str, command: e.PlugDevices) -> tuple[str, str]:
    """Return the names of the devices, and what a person types where one is not there."""
    here = command.side is Side.SOURCE
    mends = [
        plugging(vm, device.here if here else device.there)
        for device in command.devices
        if device.policy is DevicePolicy.UNPLUG and (here or device.there)
    ]
    return ", ".join(device.name for device in command.devices), "; ".join(mends)
