"""What a move does to a guest that stands still all the way, or that is switched off and started anew.

The commands of a guest that is switched off are idempotent: each looks first, so that a new runner may give them again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.engine.powering import PERIOD, ask_to_switch_off, switch_off
from godwit.errors import GodwitError, HostUnreachableError, HypervisorError
from godwit.model import RunState, Side
from godwit.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.engine.actions import Actions
    from godwit.model import GuestView, Launch
    from godwit.ports import Guest

_OBEYS: Final = 5.0
"""Seconds that QEMU may take to stop, reset or start a guest."""


@dataclass(slots=True)
class Standing:
    """Stops, switches off and starts a guest through the two monitors and hosts of a move.

    Of a guest that is to switch itself off this runner knows whether it was asked, and whether it did not obey; what a
    former one did, if this one is `restarted`, nobody knows.
    """

    actions: Actions
    restarted: bool = False
    _asked: bool = False
    _ignored: bool = False

    # -- a guest that stands still ---------------------------------------------------------------------------------

    async def stop(self, _: e.StopSource) -> e.Event:
        """Let the guest stand still on the source. Raises HypervisorError for one that does not."""
        guest = await self.actions.sides.attach(Side.SOURCE)
        self.actions.sides.asked[Side.SOURCE, "STOP"] = self.actions.parts.clock.now()
        await guest.pause()
        view = await self._until(Side.SOURCE, _OBEYS, lambda view: view.state is not RunState.RUNNING)
        if view.state is not RunState.PAUSED:
            message = f"the source was told to stop and is {view.state} ({view.raw})"
            raise HypervisorError(message)
        return e.SourcePaused()

    # -- a guest that is switched off ------------------------------------------------------------------------------

    async def power_off(self, _: e.PowerOff) -> e.Event:
        """Let the guest's QEMU outlive it, ask the guest to switch itself off, and wait until it is.

        Raises HypervisorError for a guest that has not obeyed within the time that the policy gives it.
        """
        parts = self.actions.parts
        guest = await self.actions.sides.attach(Side.SOURCE)
        await guest.keep_after_power_off(keep=True)
        timeout = parts.spec.policy.off_timeout
        over = {RunState.POWERED_OFF, RunState.ABSENT}
        look = functools.partial(self.actions.sides.look, Side.SOURCE)
        view = await switch_off(self._ask, look, parts.clock, over=over, within=timeout)
        if view.state is RunState.POWERED_OFF:
            return e.PoweredOff()
        if view.state is RunState.ABSENT:
            message = f"the QEMU of {parts.vm.name} ended on {parts.source.name} while the guest switched itself off"
            raise HypervisorError(message, remedy="see its log; something on the host may have ended it")
        self._ignored = True
        message = (
            f"{parts.vm.name} did not obey its power button within {format_duration(timeout)} and runs on, "
            f"on {parts.source.name}"
        )
        remedy = (
            "see in the guest whether it listens to its power button (acpid, logind, the desktop's settings), or allow "
            f"more with --off-timeout; should it obey later, godwit vm start {parts.vm.name} starts it again"
        )
        raise HypervisorError(message, remedy=remedy)

    async def _ask(self, agent: bool) -> bool:  # noqa: FBT001 - the shape that switch_off calls
        guest = await self.actions.sides.attach(Side.SOURCE)
        self._asked = True
        if why := await ask_to_switch_off(guest, agent=agent):
            self.actions.note("note", text=f"the power button is pressed: {why}")
        return bool(why)

    async def end_source(self, _: e.EndSource) -> e.Event:
        """End the source's QEMU, with proof. Raises HypervisorError for a guest that is not off."""
        parts = self.actions.parts
        view = self._answered(await self.actions.sides.look(Side.SOURCE))
        if view.state not in {RunState.POWERED_OFF, RunState.ABSENT}:
            message = f"{parts.vm.name} is {view.state} ({view.raw}) on {parts.source.name}, and was off"
            raise HypervisorError(message)
        guest = self.actions.sides.guests.get(Side.SOURCE)
        if guest is not None and view.state is RunState.POWERED_OFF:
            await self._quit(guest, "the source's QEMU")
        await parts.source.destroy(parts.vm)
        return e.SourceEnded()

    async def _quit(self, guest: Guest, what: str) -> None:
        """Let a QEMU close its disks in order, so that they keep their stamps; destroy() ends it in any case."""
        try:
            await guest.quit()
        except GodwitError as error:
            self.actions.note("note", text=f"{what} could not be ended in order: {error.message}")
        await guest.close()

    async def start_target(self, command: e.StartTarget) -> e.Event:
        """Start the target's QEMU anew, paused, once the one that took the disks is proven gone."""
        parts = self.actions.parts
        taker = self.actions.sides.guests.pop(Side.TARGET, None)
        if taker is not None:
            await self._quit(taker, "the target's QEMU that took the disks")
        launch = self._launch(command.launch)
        await parts.target.destroy(parts.vm)
        await parts.target.prepare_launch(parts.vm, launch)
        await parts.target.launch(parts.vm, launch, paused=True)
        guest = await self.actions.sides.attach(Side.TARGET)
        view = await guest.view()
        if view.state is not RunState.PAUSED:
            message = f"the target's QEMU was started paused and is {view.state} ({view.raw})"
            raise HypervisorError(message)
        return e.TargetStarted()

    async def restore_power(self, command: e.RestorePower) -> e.Event:
        """See to it that the guest runs on the source. It is only reached when the target was never told to run.

        Nobody can take the press of a power button back: a guest that may still obey is waited for, and one that may
        even then is named.
        """
        parts, name = self.actions.parts, self.actions.parts.vm.name
        view = self._answered(await self.actions.sides.look(Side.SOURCE))
        may_obey = not self._ignored and (self._asked or self.restarted)
        if view.state is RunState.RUNNING and may_obey:
            timeout = parts.spec.policy.off_timeout
            view = await self._until(Side.SOURCE, timeout, lambda view: view.state is not RunState.RUNNING)
            self._answered(view)
        may_obey = may_obey and view.state is RunState.RUNNING
        if view.state is not RunState.ABSENT:
            guest = await self.actions.sides.attach(Side.SOURCE)
            if view.state is not RunState.RUNNING:
                view = await self._run_again(guest, view)
            await guest.keep_after_power_off(keep=False)
            # Until then its QEMU outlived it: a guest that has obeyed since the last look would stay off for good.
            view = self._answered(await self.actions.sides.look(Side.SOURCE))
            if view.state is RunState.POWERED_OFF:
                may_obey = False
                view = await self._run_again(await self.actions.sides.attach(Side.SOURCE), view)
        if view.state is RunState.ABSENT:
            return await self._start_on_the_source(self._launch(command.launch))
        if view.state is not RunState.RUNNING:
            return e.Undone("RestorePower", f"the source is {view.state} ({view.raw}) and was told to run")
        late = f"{name} may yet obey its power button: should it, godwit vm start {name} starts it again"
        return e.Undone("RestorePower", late if may_obey else "")

    async def _run_again(self, guest: Guest, view: GuestView) -> GuestView:
        if view.state is RunState.POWERED_OFF:
            await guest.reset()
            await self._until(Side.SOURCE, _OBEYS, lambda view: view.state is not RunState.POWERED_OFF)
        await guest.resume()
        return await self._until(Side.SOURCE, _OBEYS, lambda view: view.state is RunState.RUNNING)

    async def _start_on_the_source(self, launch: Launch) -> e.Event:
        parts = self.actions.parts
        # A target that was started anew has its disks open to write, unlike one that waits for a stream: what cannot be
        # proven gone may be their second writer.
        await parts.target.destroy(parts.vm)
        await parts.source.destroy(parts.vm)
        await parts.source.prepare_launch(parts.vm, launch)
        await parts.source.launch(parts.vm, launch)
        return e.Undone("RestorePower")

    # -- what they share -------------------------------------------------------------------------------------------

    def _launch(self, launch: Launch | None) -> Launch:
        """Return how the guest is started: as its QEMU said before it ended, or else as it was once."""
        return launch or self.actions.parts.vm.launch

    def _answered(self, view: GuestView) -> GuestView:
        """Refuse to take silence for an answer."""
        if view.state is RunState.UNREACHABLE:
            message = f"{self.actions.parts.source.name} does not answer for {self.actions.parts.vm.name}: "
            message += view.detail
            raise HostUnreachableError(message)
        return view

    async def _until(self, side: Side, deadline: float, good: Callable[[GuestView], bool]) -> GuestView:
        """Look until `good` holds or `deadline` seconds have passed, whatever becomes of the monitor meanwhile."""
        end = self.actions.parts.clock.now() + deadline
        while True:
            view = await self.actions.sides.look(side)
            if good(view) or self.actions.parts.clock.now() >= end:
                return view
            await self.actions.parts.clock.sleep(PERIOD)
