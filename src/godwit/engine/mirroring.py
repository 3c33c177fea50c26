"""The disks that travel along: copied while the guest runs, ended while it stands still, kept or removed afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.engine.media import Media
from godwit.engine.shares import Shares
from godwit.engine.undoing import Undoing
from godwit.errors import GodwitError, HostError, HypervisorError
from godwit.model import Allocation, RunState, Side, Way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.engine.actions import Actions
    from godwit.model import DiskCopy, MirrorView
    from godwit.ports import Guest, GuestEvent

PERIOD: Final = 0.25
"""Seconds between looks at how far the copies are."""

STALLED: Final = 30.0
"""Seconds without a byte copied after which the copies of disks count as dead: what took hours is worth some more."""

_END_DEADLINE: Final = 4.0
_CANCELS: Final = 2.0
"""Seconds that copies may take to end before their time; the guest may stand still meanwhile."""


@dataclass(slots=True)
class Mirroring:
    """Copies disks through the two guests' monitors. `hear` is told what the source says of its jobs.

    `copied` counts the bytes that were copied of each disk, `allocations` holds what each took and takes.
    """

    actions: Actions
    copied: dict[str, int]
    allocations: dict[str, Allocation]
    _copies: tuple[DiskCopy, ...] = ()
    _ended: dict[str, asyncio.Future[str]] = field(default_factory=dict)
    """Jobs that were told to end whole, and what went wrong at that."""

    def hear(self, event: GuestEvent) -> None:
        """Take note of a job's end; one that nobody asked for is the end of a copy."""
        copy = next((one for one in self._copies if one.job == event.status), None)
        if copy is None:
            return
        waiting = self._ended.get(copy.job)
        if waiting is None:
            self.actions.sides.emit(e.MirrorLost(copy.name, event.detail or "its job ended by itself"))
        elif not waiting.done():
            waiting.set_result(event.detail)

    async def start(self, command: e.StartMirrors) -> e.Event:
        """Copy all disks at once, and return when each of them keeps up with the guest."""
        self._copies = command.copies
        address, _, port = command.uri.rpartition(":")
        guest = await self.actions.sides.attach(Side.SOURCE)
        shares = Shares(self.actions.parts.spec.policy.bandwidth or 0)
        speed = shares.of(len(command.copies))
        address = address.strip("[]")
        for copy in command.copies:
            await guest.start_mirror(copy, address, int(port), speed, encrypted=command.encrypted)
        alike: set[str] = set()
        clock = self.actions.parts.clock
        sent, since = -1, clock.now()
        while True:
            views = await guest.mirrors(command.copies)
            self._note(views)
            self._check(command.copies, views)
            if (done := sum(view.done for view in views)) != sent:
                sent, since = done, clock.now()
            elif clock.now() - since >= STALLED:
                message = f"not a byte of a disk was copied for {STALLED:.0f} s"
                raise HypervisorError(message, remedy="look at the migration link and at the target's QEMU")
            for copy, view in zip(command.copies, views, strict=True):
                if view.ready and copy.job not in alike:
                    alike.add(copy.job)
                    await self._keep_alike(guest, copy)
            await shares.hand_on(guest, [copy for copy in command.copies if copy.job not in alike])
            if all(view.ready for view in views):
                return e.MirrorsReady(await self._listens(command, address))
            await clock.sleep(PERIOD)

    async def _listens(self, command: e.StartMirrors, address: str) -> str:
        """Let the target listen for the stream now, unless it does already, or none will come; returns where."""
        if command.stream or self.actions.parts.spec.policy.way is Way.OFF:
            return command.stream
        return await self.actions.listen(await self.actions.sides.attach(Side.TARGET), address)

    async def _keep_alike(self, guest: Guest, copy: DiskCopy) -> None:
        if not await guest.keep_alike(copy):
            self.actions.note(
                "note", text=f"disk {copy.name} is copied in the background: this QEMU cannot change that"
            )

    def _note(self, views: Sequence[MirrorView]) -> None:
        for view in views:
            self.copied[view.name] = view.done
            self.actions.note_copied(view.name, view.done, view.needed, ready=view.ready)

    async def copied_so_far(self, guest: Guest) -> int | None:
        """Return the bytes of disks that were sent, what the guest wrote since included; None where none is copied."""
        return sum(view.done for view in await guest.mirrors(self._copies)) if self._copies else None

    def _check(self, copies: Sequence[DiskCopy], views: Sequence[MirrorView]) -> None:
        """Raise HypervisorError unless all copies are under way."""
        missing = {copy.name for copy in copies} - {view.name for view in views}
        if missing:
            message = f"the copy of disk {', '.join(sorted(missing))} ended: see the log of QEMU on the target"
            raise HypervisorError(message, remedy="see the room on the target's disk and the migration link")

    async def end(self, command: e.EndMirrors) -> e.Event:
        """End all copies whole, and take the target's disks from the network: the guest stands still meanwhile."""
        self._copies = command.copies
        source, target = await asyncio.gather(
            self.actions.sides.attach(Side.SOURCE), self.actions.sides.attach(Side.TARGET)
        )
        loop = asyncio.get_running_loop()
        self._ended = {copy.job: loop.create_future() for copy in command.copies}
        # The guest stands still: what need not wait for an answer is said at once, and QEMU keeps the order. Nothing is
        # written to the source's disks any more, so they may have their stamps before the copies have ended.
        ending = asyncio.gather(*(source.end_mirror(copy) for copy in command.copies))
        refused_here, _ = await asyncio.gather(source.stamp_disks(command.copies), ending)
        await self._until_ended(command.copies)
        _, _, refused_there, _ = await asyncio.gather(
            target.stop_serving(),
            target.freeze(command.copies),
            target.stamp_disks(command.copies),
            source.forget_mirrors([copy for copy in command.copies if copy.since]),
        )
        for words in (*refused_here, *refused_there):
            self.actions.note("note", text=f"no handover stamp, the way back will copy the whole disk: {words}")
        self.actions.mark("mirrors_ended", self.actions.parts.clock.now())
        return e.MirrorsEnded()

    async def _until_ended(self, copies: tuple[DiskCopy, ...]) -> None:
        """Wait for the copies that were told to end. Raises HypervisorError for one that does not, or not whole."""
        _, late = await asyncio.wait(self._ended.values(), timeout=_END_DEADLINE)
        if late:
            message = f"{len(late)} copies of disks have not ended within {_END_DEADLINE:g} s"
            raise HypervisorError(message, remedy="see the migration link and the target's disk")
        troubles = [f"{copy.name}: {words}" for copy in copies if (words := self._ended[copy.job].result())]
        if troubles:
            message = f"a copy of a disk did not end whole: {'; '.join(troubles)}"
            raise HypervisorError(message, remedy="see the room on the target's disk and the migration link")

    async def go_on(self, _: e.ContinueStream) -> None:
        """Let the held stream go on into the switchover; the connections of whole copies are closed just before."""
        guest = await self.actions.sides.attach(Side.SOURCE)
        await asyncio.gather(self._forget(guest), guest.continue_stream())

    async def _forget(self, source: Guest) -> None:
        try:
            await source.forget_mirrors([copy for copy in self._copies if not copy.since])
        except GodwitError as error:  # they end with the source's QEMU
            self.actions.note("note", text=f"the connection of a copied disk was not closed: {error.message}")

    async def cancel(self, command: e.CancelMirrors, uri: str = "") -> e.Event:
        """End the copies to `uri`, an address:port, before their time.

        One that waits for a host that has fallen silent ends with its connection. Raises GodwitError where the source
        does not answer.
        """
        self._copies = ()
        if (await self.actions.sides.look(Side.SOURCE)).state is RunState.ABSENT:  # its copies ended with it
            return e.Undone("CancelMirrors")
        guest = await self.actions.sides.attach(Side.SOURCE)
        cancelling = asyncio.create_task(guest.cancel_mirrors(command.copies))
        try:
            await asyncio.wait([cancelling], timeout=_CANCELS)
            if not cancelling.done() and uri:
                await Undoing(self.actions).break_connection(uri)
            await cancelling
        finally:
            cancelling.cancel()
        return e.Undone("CancelMirrors")

    async def make(self, copies: Sequence[DiskCopy]) -> None:
        """Make the images on the target that are to be copied to, or take older ones. Raises HostError."""
        target, owner = self.actions.parts.target, self.actions.parts.spec.id
        for copy in copies:
            if copy.since:
                await target.claim_image(copy.image.path, owner)
                continue
            if copy.older:
                await target.discard_image(copy.image.path)
            await target.create_image(copy.image, owner)

    async def keep(self, command: e.KeepImages) -> e.Event:
        """Let the images be the guest's own; of the stamps of former handovers none is of use any more."""
        for copy in command.copies:
            await self.actions.parts.target.keep_image(copy.image.path, self.actions.parts.spec.id)
            await self._weigh(copy)
        try:
            guest = await self.actions.sides.attach(Side.TARGET)
            await guest.forget_stamps(command.copies)
        except GodwitError as error:
            self.actions.note("note", text=f"stamps of former handovers are left on the disks: {error.message}")
        return e.Undone("KeepImages")

    async def leave(self, command: e.LeaveOldCopies) -> e.Event:
        """Mark the copies that stay behind on the source, or remove them where nobody wants them.

        Raises HostError where a process of the guest is left there, which may have them open.
        """
        parts = self.actions.parts
        view = await parts.source.observe(parts.vm)
        if view.state is not RunState.ABSENT:
            message = f"the old disks on {parts.source.name} are not marked: {parts.vm.name} is {view.state} there"
            raise HostError(message)
        wanted = parts.spec.policy.keep_old or command.unseen
        left = []
        for copy in command.copies:
            try:
                await self._leave(copy, wanted=wanted)
            except GodwitError as error:
                left.append(f"the old {copy.image.path} on {parts.source.name} is not marked: {error.message}")
        return e.Undone("LeaveOldCopies", "; ".join(left))

    async def _leave(self, copy: DiskCopy, *, wanted: bool) -> None:
        """Mark one old disk, or remove it; one that a former runner has removed is gone already."""
        parts, path = self.actions.parts, copy.image.path
        if not (await parts.source.find_token(path))[1]:
            return
        await parts.source.leave_image(path, copy.image.format, parts.vm.name, copy.stamp)
        if not wanted:
            await parts.source.discard_image(path)
        gone = not (await parts.source.find_token(path))[1]
        end = "was removed" if gone else "stays there, for a short way back"
        self.actions.note("note", text=f"the old {path} on {parts.source.name} {end}")

    async def _weigh(self, copy: DiskCopy) -> None:
        """Note what a copied disk takes now, beside what it took where it was."""
        try:
            after = await self.actions.parts.target.used(copy.image.path)
        except GodwitError as error:
            self.actions.note("note", text=f"what {copy.image.path} takes could not be read: {error.message}")
            return
        self.allocations[copy.name] = Allocation(copy.name, copy.image.allocated, after)
        self.actions.note("allocation", disk=copy.name, before=copy.image.allocated, after=after)

    async def remove(self, command: e.RemoveImages) -> e.Event:
        """Remove what was made on the target, give back what was there; what cannot be removed is named."""
        left = []
        target, owner = self.actions.parts.target, self.actions.parts.spec.id
        await Media(self.actions, self.copied).end_all(command.copies)
        for copy in command.copies:
            try:
                if copy.verify:
                    await target.remove_image(copy.frozen, owner)
                if copy.since:
                    await target.give_back_image(copy.image.path, owner)
                else:
                    await target.remove_image(copy.image.path, owner)
            except GodwitError as error:
                left.append(f"{copy.image.path} may be left on {self.actions.parts.target.name}: {error.message}")
        return e.Undone("RemoveImages", "; ".join(left))
