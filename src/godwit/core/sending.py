"""A guest that is sent to another host with a snapshot: how far it is, what travels, and what a successor does. Pure.

The law holds by the order of these steps. Until the step ARMED is durable, nobody has told the guest to run on the
target, and its owner is the source; from then on it is the target, and the source is never started again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from godwit.errors import RefusedError
from godwit.model import DiskMode, Launch, Policy, RunState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from godwit.core.preflight.evidence import DiskProof
    from godwit.model import Finding


class SendStep(StrEnum):
    """What is about to be done: each is durable before the act."""

    SAVING = "saving"
    """The guest is being paused, and its snapshot made; it is the source's, and its QEMU is there."""
    ENDING = "ending"
    """The source's QEMU is being ended."""
    CARRYING = "carrying"
    """The source's QEMU is proven gone; files are carried."""
    STARTING = "starting"
    """The target's QEMU is being started, paused, and goes to the snapshot."""
    ARMED = "armed"
    """The guest may have been told to run on the target."""


@dataclass(frozen=True, slots=True)
class SendRecord:
    """One guest on its way. `id` marks what is made on the target; `running` is whether it is to run there.

    `launch` starts the same guest on either host. `files` are carried; with `shared` some disk is the same file on both
    hosts. `made` says that the snapshot is this send's own, `plaintext` that files travel unencrypted.
    """

    id: str
    vm: str
    tag: str
    source: str
    target: str
    step: SendStep
    launch: Launch
    running: bool
    made: bool
    files: tuple[str, ...] = ()
    shared: bool = False
    plaintext: bool = False

    @property
    def command(self) -> str:
        """What to type so that it goes on."""
        return f"godwit snapshot send {self.vm} {self.tag} {self.target}"


POLICY: Final = Policy(disks=DiskMode.SHARED, compare_all=True)
"""How disks are looked at beforehand: what is shared is proven, and what both hosts have is compared whole."""

_OTHERWISE: Final = frozenset(
    {"not-running", "image-not-found-again", "send-queue", "tcg-corrupts", "migration-path", "clocks-differ"}
)
_DISKS: Final = ("disk-", "backing-", "qemu-img-")


def findings(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return what preflight's findings mean for a guest that is sent: those about disks are judged by `to_carry`."""
    return tuple(one for one in found if one.code not in _OTHERWISE and not one.code.startswith(_DISKS))


def to_carry(proofs: Iterable[DiskProof], digests: Mapping[str, bool], target: str) -> tuple[str, ...]:
    """Return the files that are to be carried; `digests` says of read-only files that both hosts have: are they alike.

    Raises RefusedError for a file that the target has and that is another.
    """
    files: list[str] = []
    for proof in proofs:
        if proof.same or proof.path in files or digests.get(proof.path):
            continue
        if not proof.target_identity:
            files.append(proof.path)
        elif proof.read_only:
            message = f"{proof.path} on {target} is another file than the guest's"
            raise RefusedError(message, remedy="copy the right one there, or move that one away: it is carried then")
        else:
            message = f"{target} has a file {proof.path} already, and it is not overwritten"
            raise RefusedError(message, remedy="move it away, if nobody needs it there")
    return tuple(files)


class Verdict(StrEnum):
    """What a successor does with a guest whose sending broke off."""

    ANEW = "anew"
    """Undo what little was done, and begin from the start."""
    ON = "on"
    """Go on towards the target."""
    GIVEN_UP = "given-up"
    """Somebody has started the guest on the source: it stays there."""
    FINISH = "finish"
    """It runs on the target, or stands there ready to: only the end is missing."""
    CRASHED = "crashed"
    """It was told to run on the target, and its process is gone."""
    WAIT = "wait"
    """A silent host would decide."""


def judge(record: SendRecord, source: RunState, target: RunState) -> Verdict:
    """Decide from the record and from what both hosts say of the guest."""
    if record.step is SendStep.ARMED:
        table = {RunState.ABSENT: Verdict.CRASHED, RunState.UNREACHABLE: Verdict.WAIT}
        return table.get(target, Verdict.FINISH)
    if source is RunState.UNREACHABLE:
        return Verdict.WAIT
    if record.step is SendStep.SAVING:
        return Verdict.ANEW
    if record.step is SendStep.ENDING:
        # One that runs although it was paused for its snapshot has gone on: somebody told it to.
        return Verdict.ANEW if source is RunState.RUNNING and record.made else Verdict.ON
    return Verdict.ON if source is RunState.ABSENT else Verdict.GIVEN_UP
