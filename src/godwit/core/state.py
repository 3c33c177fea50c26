"""The state of one migration: everything that must survive a crash of whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from godwit.model import Comparison, DevicePolicy, DirectDevice, DiskCopy, Launch, OutcomeStatus, Owner, Side, Way


class Phase(StrEnum):
    """Where a migration stands. See docs/architecture.md for the picture."""

    PENDING = "pending"
    PREPARING = "preparing"
    MIRRORING = "mirroring"
    UNPLUGGING = "unplugging"
    PRECOPY = "precopy"
    SWITCHOVER = "switchover"
    POSTCOPY = "postcopy"
    POWERING_OFF = "powering-off"
    STARTING = "starting"
    COMMITTING = "committing"
    FINISHING = "finishing"
    ROLLING_BACK = "rolling-back"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    LIMBO = "limbo"


TERMINAL = frozenset({Phase.DONE, Phase.CANCELLED, Phase.FAILED})
"""Nothing leaves these. LIMBO is not among them: new evidence leads out of it."""


class Door(StrEnum):
    """How far the one-way door to the target is open: what may have been told to the target.

    CLOSED: `cont` was certainly not sent. ARMED: the record that permits it is durable, and this very runner
    knows that it did not send it yet. SENT: it was sent, or a runner that died may have sent it.
    """

    CLOSED = "closed"
    ARMED = "armed"
    SENT = "sent"


class Held(StrEnum):
    """What a migration holds and must give back, in the order in which a rollback gives it back.

    SOURCE_STOPPED stands for the duty to see the source run again, POWER for the same where the guest's power button
    was pressed: its process may have to be started anew. DEVICES stands for the duty to see the guest have the devices
    again that were taken from it, wherever it runs in the end. GUEST stands for what is set in the guest's QEMU for the
    sake of the move: its capabilities and parameters, and what its balloon takes. CREDENTIALS are the certificates
    and keys on both hosts with which its connections are encrypted; a move that holds none travels in the clear.
    """

    STREAM = "stream"
    MIRRORS = "mirrors"
    TARGET = "target"
    IMAGES = "images"
    SOURCE_STOPPED = "source-stopped"
    POWER = "power"
    DEVICES = "devices"
    GUEST = "guest"
    CREDENTIALS = "credentials"
    SEND_QUEUE = "send-queue"


KEPT: Final = frozenset({Held.DEVICES, Held.GUEST, Held.CREDENTIALS, Held.SEND_QUEUE})
"""What is still held of a guest that runs on the target."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a migration goes back: a stable code, what happened, and the mend."""

    code: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """Which side owns the guest by a person's word; `tried` once the other side's process was to be ended for that."""

    owner: Side
    by: str = ""
    tried: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """One migration. Only `step` makes new ones.

    `prepared` names the sides that are ready, `ended` those for which the stream has completed (an entry for the
    source proves that it has not run since); `tried` is what a rollback could not undo at the first try;
    `copies` are the disks that travel along, to `disks_uri`; `media` files that go before; `mirrored` says that all
    disks are on the target and nobody writes to them there. `postcopy` says that the guest was told to go over to the
    target before its memory, `over` names the sides that have said that it does. `duties` is what FINISHING still has
    to do; `leftovers` is what could not be removed, in words. `way` is how the guest travels, `launch` what starts it
    anew where it is switched off for that. `balloon` is the bytes of memory that the guest's balloon left to it before,
    0 where that is not touched. `devices` are those that do not travel, with what plugs them in again. `resolution` is
    a person's word, in LIMBO, until it was acted upon or refused.
    """

    phase: Phase = Phase.PENDING
    owner: Owner = Owner.SOURCE
    door: Door = Door.CLOSED
    held: frozenset[Held] = frozenset()
    uri: str = ""
    disks_uri: str = ""
    copies: tuple[DiskCopy, ...] = ()
    media: tuple[DiskCopy, ...] = ()
    mirrored: bool = False
    postcopy: bool = False
    over: frozenset[str] = frozenset()
    prepared: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    tried: frozenset[Held] = frozenset()
    duties: frozenset[str] = frozenset()
    cancel_requested: bool = False
    failure: Failure | None = None
    alive: bool | None = None
    comparison: Comparison | None = None
    leftovers: tuple[str, ...] = ()
    way: Way = Way.LIVE
    launch: Launch | None = None
    balloon: int = 0
    resolution: Resolution | None = None
    devices: tuple[DirectDevice, ...] = ()

    @property
    def made(self) -> tuple[DiskCopy, ...]:
        """All that this migration makes on the target's file systems."""
        return (*self.copies, *self.media)

    @property
    def unplugged(self) -> tuple[DirectDevice, ...]:
        """The devices that Godwit itself takes from the guest; the others of `devices` are QEMU's affair."""
        return tuple(device for device in self.devices if device.policy is DevicePolicy.UNPLUG)

    @property
    def fails_over(self) -> bool:
        """Whether QEMU takes a NIC from the guest before it sends anything."""
        return any(device.policy is DevicePolicy.FAILOVER for device in self.devices)

    @property
    def encrypted(self) -> bool:
        """Whether what it sends is encrypted, between ends that have proven who they are."""
        return Held.CREDENTIALS in self.held

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in TERMINAL

    def inherited(self) -> State:
        """Return the state as a new runner must take it: the former one may have gone through an armed door."""
        return replace(self, door=Door.SENT) if self.door is Door.ARMED else self

    def with_failure(self, failure: Failure) -> State:
        """Keep the first failure: later ones are consequences."""
        return self if self.failure else replace(self, failure=failure)


def outcome_status(state: State) -> OutcomeStatus:
    """Name the end of a migration that is in a terminal phase or in LIMBO."""
    match state.phase:
        case Phase.DONE:
            proven = state.comparison is None or state.comparison.equal is True
            return OutcomeStatus.COMPLETED if proven else OutcomeStatus.UNVERIFIED
        case Phase.CANCELLED:
            return OutcomeStatus.CANCELLED
        case Phase.LIMBO:
            return OutcomeStatus.LIMBO
        case _ if state.owner is Owner.TARGET:
            return OutcomeStatus.GUEST_CRASHED
        case _ if state.failure is not None and state.failure.code == "refused":
            return OutcomeStatus.REFUSED
        case _:
            return OutcomeStatus.FAILED


@dataclass(frozen=True)
class LawBrokenError(Exception):
    """A state that contradicts the one law: a defect in Godwit, never a user's mistake."""

    state: State
    why: str = field(default="")


def assert_law(state: State) -> None:
    """Check what must hold in every state; raises LawBrokenError.

    The source may be told to run only while the door is not SENT; the target only once it is armed.
    """
    rules = (
        (state.phase in {Phase.DONE, Phase.FINISHING} and state.owner is not Owner.TARGET, "finishing without owning"),
        (state.phase is Phase.COMMITTING and state.door is not Door.SENT, "committing through a closed door"),
        (state.phase is Phase.POSTCOPY and state.owner is not Owner.TARGET, "postcopy of a guest that is not over"),
        (state.owner is Owner.TARGET and state.door is Door.CLOSED, "target owns behind a closed door"),
        (state.phase is Phase.ROLLING_BACK and state.owner is not Owner.SOURCE, "rolling back what is not ours"),
        (state.phase is Phase.ROLLING_BACK and state.door is Door.SENT, "rolling back through a one-way door"),
        (state.phase is Phase.CANCELLED and state.owner is not Owner.SOURCE, "cancelled without owning"),
        (state.finished and bool(state.held - {Held.SOURCE_STOPPED}) and not state.leftovers, "ended while holding"),
    )
    for broken, why in rules:
        if broken:
            raise LawBrokenError(state, why)
