"""What was proven of hosts that do not answer, put beside what is seen; and cutting a host's power where permitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from godwit.core import events as e
from godwit.core.fencing import side_to_fence, silent, valid, without_power
from godwit.errors import GodwitError, JournalError
from godwit.model import FenceProof, Side

if TYPE_CHECKING:
    from godwit.core.state import State
    from godwit.engine.parts import Parts
    from godwit.model import GuestView
    from godwit.ports import Decisions


async def told_of(decisions: Decisions, host: str, view: GuestView, began: float, now: float) -> GuestView:
    """Return what is known of a guest on a host: `view`, or that the silent host was proven to be off.

    `began` is when the look began. A host that has answered since it was proven to be off is on again: the proof is
    forgotten. Raises JournalError.
    """
    proof = await decisions.proof(host)
    if proof is None:
        return view
    if not silent(view):
        if proof.at < began:
            await decisions.drop_proof(host)
        return view
    return without_power(proof) if valid(proof, now) else view


@dataclass(slots=True)
class Fences:
    """Knows which of the two hosts was proven to be off."""

    parts: Parts
    off: set[Side] = field(default_factory=set)
    _tried: set[Side] = field(default_factory=set)

    async def seen(self, side: Side, view: GuestView, began: float) -> GuestView:
        """Return what is known of a side of which `view` was seen, by a look that began at `began` (UNIX seconds).

        A host that has answered since it was proven to be off is on again: the proof is forgotten.
        """
        host = self.parts.host(side).name
        try:
            told = await told_of(self.parts.journal.decisions, host, view, began, self.parts.clock.now())
        except JournalError as error:  # what cannot be read proves nothing
            self._note(f"whether {host} was proven to be off could not be read: {error.message}")
            told = view
        (self.off.discard if told is view else self.off.add)(side)
        return told

    def done(self, command: e.Command) -> e.Event | None:  # noqa: PLR0911 - one case for each command
        """Return what follows from a command that a host without power has carried out by being off; None else."""
        source, target = Side.SOURCE in self.off, Side.TARGET in self.off
        name = type(command).__name__
        match command:
            case e.RemoveSource() if source:
                return e.SourceRemoved()
            case e.EndSource() if source:
                return e.SourceEnded()
            case e.ResumeSource() if source:
                return e.Undone(name, f"{self.parts.source.name} is off, and the guest's process there is gone")
            case e.CancelStream() | e.CancelMirrors() | e.RestoreSendQueue() if source:
                return e.Undone(name)
            case e.RestoreGuest(side=side) if side in self.off:
                return e.Undone(name)
            case e.DestroyTarget() if target:
                return e.Undone(name)
            case _:
                return None

    async def forced(self, state: State, event: e.Event) -> bool:
        """Cut the power of a host whose silence leads to LIMBO, where its record permits that; say whether it was."""
        if not isinstance(event, e.Observed):
            return False
        records = self.parts.records
        permitted = {side for side, record in records.items() if record.fence is not None and record.fence_automatic}
        side = side_to_fence(state, event, frozenset(permitted - self._tried))
        if side is None or self.parts.fencer is None:
            return False
        self._tried.add(side)
        record = records[side]
        self._note(f"{record.name} is silent, and only that leads to limbo: its power is cut, as its record permits")
        try:
            power = await self.parts.fencer.cut(record)
            proof = FenceProof(record.name, self.parts.clock.now(), power.said, "automatic")
            await self.parts.journal.decisions.put_proof(proof)
        except GodwitError as error:
            self._note(f"{record.name} could not be fenced: {error.message}")
            return False
        self._note(f"{record.name} is proven to be off: {power.said}")
        return True

    def _note(self, text: str) -> None:
        self.parts.journal.note(self.parts.spec.id, "fence", self.parts.clock.now(), {"text": text})
