"""The commands that take a move back: its stream, the target's process, the guest's stop, the send queue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.upgrading import path_in_place
from godwit.engine.actions import RUNNING_DEADLINE
from godwit.errors import GodwitError, HostError, HostUnreachableError, JournalError, SupersededError
from godwit.model import RunState, Side, StreamStatus

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.model import GuestView

_STREAM_END_DEADLINE: Final = 8.0
_UNPLUG_END_DEADLINE: Final = 35.0
"""Seconds: QEMU itself waits 30 s for the guest (qemu_savevm_wait_unplug() in migration/migration.c)."""

_QUEUE_PAUSES: Final = (0.5, 1.0, 2.0)
"""Seconds between attempts to give the send queue back."""

_LIVE_STREAMS: Final = frozenset(
    {StreamStatus.SETUP, StreamStatus.ACTIVE, StreamStatus.HELD, StreamStatus.SWITCHOVER, StreamStatus.OTHER}
)


@dataclass(slots=True)
class Undoing:
    """Takes back what was done for a move, each as far as it was done."""

    actions: Actions

    async def cancel_stream(self, _: e.CancelStream, uri: str = "", *, failover: bool = False) -> e.Event:
        """Cancel the stream to `uri` and wait until it has ended, so that the source is free for another.

        One before which QEMU takes a NIC from the guest (`failover`) ends only when the guest has let go of that.
        """
        view = await self.actions.sides.look(Side.SOURCE)
        if view.state is RunState.ABSENT:
            return e.Undone("CancelStream")
        if view.state is RunState.UNREACHABLE and uri.startswith("tcp:"):
            await self.break_connection(uri.removeprefix("tcp:"))
            view = await self.actions.sides.look(Side.SOURCE)
        self._require_answer(view)
        if view.stream in _LIVE_STREAMS:
            guest = await self.actions.sides.attach(Side.SOURCE)
            await guest.cancel_migration()
            await self.actions.wait_for(
                guest,
                _UNPLUG_END_DEADLINE if failover else _STREAM_END_DEADLINE,
                lambda view: view.stream not in _LIVE_STREAMS,
            )
        if path_in_place(uri) is not None:
            await (await self.actions.sides.attach(Side.SOURCE)).forget_hand_over()
        return e.Undone("CancelStream")

    async def break_connection(self, destination: str) -> None:
        """End the source's sockets to where memory or a disk is sent: what waits for that host is told at last.

        The end of a stream is sent under QEMU's big lock (migration_completion() in migration/migration.c): behind a
        silently cut link it blocks the monitor, too, as long as TCP goes on trying, and the guest stands still. With
        its socket gone (SOCK_DESTROY, see ss(8)) the stream fails and QEMU takes the guest back.
        """
        try:
            done = await self.actions.parts.source.run(["ss", "--tcp", "--kill", "dst", destination], deadline=3.0)
        except GodwitError as error:
            self.actions.note(
                "note", text=f"the source's connection to {destination} could not be ended: {error.message}"
            )
        else:
            self.actions.note("note", text=f"the source's connection was ended: {done.stdout.decode().strip()}")

    async def destroy_target(self, _: e.DestroyTarget) -> e.Event:
        """End the target's QEMU; where its host is silent, name what is left: it is paused and stays so."""
        parts = self.actions.parts
        guest = self.actions.sides.guests.pop(Side.TARGET, None)
        if guest is not None:
            await guest.close()
        vm = parts.vm_on(Side.TARGET)
        if self.actions.facts is not None:  # what was plugged in since the guest is known has taps, too
            vm = replace(vm, launch=self.actions.facts.launch)
        try:
            await parts.target.destroy(vm)
        except GodwitError as error:
            left = f"a paused copy of {parts.vm.name} may be left on {parts.target.name}: {error.message}"
            return e.Undone("DestroyTarget", left)
        return e.Undone("DestroyTarget")

    async def resume_source(self, _: e.ResumeSource) -> e.Event:
        """See to it that the source runs. It is only reached when the target was certainly never told to run."""
        view = await self.actions.sides.look(Side.SOURCE)
        if view.state is RunState.ABSENT:
            parts = self.actions.parts
            return e.Undone("ResumeSource", f"{parts.vm.name} has no process on {parts.source.name} any more")
        self._require_answer(view)
        if view.state is not RunState.RUNNING:
            guest = await self.actions.sides.attach(Side.SOURCE)
            await guest.resume()
            view = await self.actions.wait_for(guest, RUNNING_DEADLINE, lambda view: view.state is RunState.RUNNING)
        left = "" if view.state is RunState.RUNNING else f"the source is {view.state} ({view.raw}) and was told to run"
        return e.Undone("ResumeSource", left)

    def _require_answer(self, view: GuestView) -> None:
        """Refuse to take silence for an answer; the machine tries again when the source is back."""
        if view.state is RunState.UNREACHABLE:
            parts = self.actions.parts
            message = f"{parts.source.name} does not answer for {parts.vm.name}: {view.detail}"
            raise HostUnreachableError(message)

    async def restore_send_queue(self, _: e.RestoreSendQueue) -> e.Event:
        """Give the source host's send queue back; a host that is out of reach for moments is asked again."""
        for pause in (*_QUEUE_PAUSES, None):
            try:
                await self.actions.parts.source.restore_send_queue(self.actions.parts.spec.id)
            except SupersededError:
                raise
            except GodwitError as error:
                if pause is None:
                    message = f"tcp_notsent_lowat of {self.actions.parts.source.name}: {error.message}"
                    raise (JournalError if isinstance(error, JournalError) else HostError)(message) from error
                await self.actions.parts.clock.sleep(pause)
            else:
                break
        return e.Undone("RestoreSendQueue")
