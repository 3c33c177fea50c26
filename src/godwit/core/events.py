"""What can happen to a migration (events), and what the machine asks for (commands).

An event is a fact in the past; a command is a wish that the engine carries out, which comes back as an event.
All of them are plain values, journalled word for word. One file although it is a long one: there is nothing in it but
these values, and whoever reads a story looks all of them up in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.model import Comparison, DirectDevice, DiskCopy, GuestView, Launch, Side, StreamStatus, Way

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["COMMANDS", "EVENTS", "Command", "Event", "GuestView"]


@dataclass(frozen=True, slots=True)
class Begin:
    """The migration was asked for."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Facts of both sides are known and nothing blocks; `copies` are the disks that must be copied.

    `launch` starts the guest anew, for a way on which it is switched off. `media` are files that the guest only reads,
    which must be there before its QEMU starts. `balloon` is what the guest's balloon leaves to it, in bytes, where that
    is to take free memory before the guest travels; 0 where it is not. `encrypted` says that both ends of each
    connection are to prove who they are, and to encrypt what they say. `devices` are taken from the guest for its way.
    """

    copies: tuple[DiskCopy, ...] = ()
    way: Way = Way.LIVE
    launch: Launch | None = None
    media: tuple[DiskCopy, ...] = ()
    balloon: int = 0
    encrypted: bool = False
    devices: tuple[DirectDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class MediaCopied:
    """The files that the guest only reads are on the target, whole and the same."""


@dataclass(frozen=True, slots=True)
class TargetPrepared:
    """The target's QEMU waits, paused, for the stream at `uri`; or where there are disks, for those at `disks_uri`."""

    uri: str
    disks_uri: str = ""


@dataclass(frozen=True, slots=True)
class SourcePrepared:
    """Capabilities, parameters and the send queue of the source are set."""


@dataclass(frozen=True, slots=True)
class SourcePaused:
    """The guest stands still on the source, as it was told to, before anything of it is sent."""


@dataclass(frozen=True, slots=True)
class PoweredOff:
    """The guest has switched itself off; its QEMU on the source is still there."""


@dataclass(frozen=True, slots=True)
class SourceEnded:
    """The QEMU of a guest that had switched itself off is proven gone on the source."""


@dataclass(frozen=True, slots=True)
class TargetStarted:
    """The target's QEMU is ready to start the guest anew, and paused."""


@dataclass(frozen=True, slots=True)
class MirrorsReady:
    """All disks are on the target, and each write of the guest reaches both; it waits for the stream now, at `uri`."""

    uri: str = ""


@dataclass(frozen=True, slots=True)
class MirrorLost:
    """The copy of one disk ended before its time."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unplugged:
    """The guest has let go of the devices that do not travel with it."""


@dataclass(frozen=True, slots=True)
class StreamHeld:
    """The source stands still before the switchover, and waits until it is told to go on."""


@dataclass(frozen=True, slots=True)
class MirrorsEnded:
    """The disks on the target are complete, and nobody else writes to them any more."""


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The source accepted the command to send."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The strategy chose to change the running stream."""

    action: str
    parameters: Mapping[str, int]
    reason: str
    evidence: str


@dataclass(frozen=True, slots=True)
class SourceStopped:
    """The source's CPUs stand still (STOP)."""


@dataclass(frozen=True, slots=True)
class SourceResumed:
    """The source's CPUs run again (RESUME): the stream failed late and QEMU took the guest back."""


@dataclass(frozen=True, slots=True)
class WentOver:
    """One side says that the guest goes over to the target before its memory (postcopy)."""

    side: Side


@dataclass(frozen=True, slots=True)
class StreamBroke:
    """One side says that the connection of a guest in postcopy was lost: what is not there yet cannot come."""

    side: Side


@dataclass(frozen=True, slots=True)
class StreamMended:
    """The connection of a guest in postcopy is there again."""


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """One side says how the stream ended for it."""

    side: Side
    status: StreamStatus


@dataclass(frozen=True, slots=True)
class TargetRunning:
    """The target executes the guest: RESUME was seen, or its status says so."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The guest was looked at from outside; `alive` is None where nobody could look."""

    alive: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DisksCompared:
    """The copied disks were compared with those that they were copied from, or could not be.

    `leftover` says what could not be taken away of what that took.
    """

    comparison: Comparison
    leftover: str = ""


@dataclass(frozen=True, slots=True)
class SourceRemoved:
    """Nothing of the guest is left on the source."""


@dataclass(frozen=True, slots=True)
class Undone:
    """The step of the rollback called `step` is done; `leftover` says what could not be removed."""

    step: str
    leftover: str = ""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The command called `step` failed; nothing more is known than its error."""

    step: str
    code: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection to one side's monitor ended. Unknown is not failed."""

    side: Side


@dataclass(frozen=True, slots=True)
class Observed:
    """Both sides were looked at. `waited` is the seconds since looking became necessary.

    `restarted` is true when a new runner looks after the former one died.
    """

    source: GuestView
    target: GuestView
    waited: float
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A person or program wants the guest to stay where it is."""

    by: str = ""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A person, named in `by`, decided which side owns a guest of which the evidence does not tell."""

    owner: Side
    by: str = ""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The deadline passed or the stream stands still: go back while that is possible."""

    code: str
    reason: str
    remedy: str = ""


Event = (
    Begin
    | Checked
    | MediaCopied
    | TargetPrepared
    | SourcePrepared
    | SourcePaused
    | PoweredOff
    | SourceEnded
    | TargetStarted
    | MirrorsReady
    | Unplugged
    | MirrorLost
    | StreamHeld
    | MirrorsEnded
    | WentOver
    | StreamBroke
    | StreamMended
    | StreamStarted
    | Decided
    | SourceStopped
    | SourceResumed
    | StreamEnded
    | TargetRunning
    | Verified
    | DisksCompared
    | SourceRemoved
    | Undone
    | StepFailed
    | Lost
    | Observed
    | CancelRequested
    | Resolved
    | GiveUp
)


@dataclass(frozen=True, slots=True)
class Check:
    """Gather facts of both sides and run preflight."""


@dataclass(frozen=True, slots=True)
class CopyMedia:
    """Copy files that the guest only reads to the target, and prove that they have arrived."""

    media: tuple[DiskCopy, ...]
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class CompareDisks:
    """Compare the copied disks with those that they were copied from, as they were when the guest stood still."""

    copies: tuple[DiskCopy, ...]
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class PrepareTarget:
    """Make the images of `copies`, start the target's QEMU paused, let it take these, or else listen for the stream."""

    copies: tuple[DiskCopy, ...] = ()
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class PrepareSource:
    """Set capabilities and parameters on the source, and shorten its send queue."""

    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class StopSource:
    """Let the guest stand still on the source."""


@dataclass(frozen=True, slots=True)
class PowerOff:
    """Press the guest's power button, and wait until it has switched itself off; its QEMU is to outlive it."""


@dataclass(frozen=True, slots=True)
class EndSource:
    """End the QEMU of a guest that has switched itself off, with proof, so that its disks are free.

    `decided` says that a person gave the guest to the target: then one that only stands still is ended, too.
    """

    decided: bool = False


@dataclass(frozen=True, slots=True)
class StartTarget:
    """Start the target's QEMU anew, paused, in place of the one that took the disks."""

    launch: Launch | None = None


@dataclass(frozen=True, slots=True)
class RestorePower:
    """See to it that a guest whose power button was pressed runs on the source, be it by starting it anew."""

    launch: Launch | None = None


@dataclass(frozen=True, slots=True)
class StartMirrors:
    """Copy disks to `uri` while the guest runs, or follow the copies that are under way; then let the target listen.

    `stream` is where it does already, empty where not yet.
    """

    uri: str
    copies: tuple[DiskCopy, ...]
    encrypted: bool = False
    stream: str = ""


@dataclass(frozen=True, slots=True)
class UnplugDevices:
    """Take the devices that do not travel from the guest, which has to let go of them; those of failover are QEMU's."""

    devices: tuple[DirectDevice, ...]


@dataclass(frozen=True, slots=True)
class PlugDevices:
    """See to it that the guest has its devices on that side: the very ones on the source, their match on the target."""

    side: Side
    devices: tuple[DirectDevice, ...]


@dataclass(frozen=True, slots=True)
class EndMirrors:
    """End the copies, now that the guest stands still, and take the target's disks from the network."""

    copies: tuple[DiskCopy, ...]


@dataclass(frozen=True, slots=True)
class GoOver:
    """Let the guest go over to the target before its memory."""


@dataclass(frozen=True, slots=True)
class MendStream:
    """Connect a guest in postcopy to its memory again, after `delay` seconds."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class ContinueStream:
    """Let a held stream go on into the switchover."""


@dataclass(frozen=True, slots=True)
class KeepImages:
    """Let the copied images be the guest's own from now on."""

    copies: tuple[DiskCopy, ...]


@dataclass(frozen=True, slots=True)
class LeaveOldCopies:
    """Mark what stays behind on the source, for the way back.

    `unseen` says that the guest does not answer on the target: then nothing is removed, whatever the policy says.
    """

    copies: tuple[DiskCopy, ...]
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class CancelMirrors:
    """End the copies before their time; the guest goes on with its own disks."""

    copies: tuple[DiskCopy, ...]


@dataclass(frozen=True, slots=True)
class RemoveImages:
    """Remove the images that this migration made on the target; an older one that it took stays, as an older one."""

    copies: tuple[DiskCopy, ...]


@dataclass(frozen=True, slots=True)
class StartStream:
    """Tell the source to send to `uri`."""

    uri: str


@dataclass(frozen=True, slots=True)
class Adjust:
    """Change parameters of the running stream."""

    parameters: Mapping[str, int]
    reason: str


@dataclass(frozen=True, slots=True)
class ContinueTarget:
    """Tell the target to run: the one-way door."""


@dataclass(frozen=True, slots=True)
class Observe:
    """Look at both sides after `delay` seconds."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Verify:
    """Announce the guest and look whether it lives, from outside where possible."""


@dataclass(frozen=True, slots=True)
class RecordHome:
    """Write down that the guest lives on the target: what is left of it elsewhere must not be started again."""


@dataclass(frozen=True, slots=True)
class RemoveSource:
    """End the source's stopped QEMU and remove its taps."""


@dataclass(frozen=True, slots=True)
class CancelStream:
    """Cancel the stream on the source and wait until it has ended."""


@dataclass(frozen=True, slots=True)
class DestroyTarget:
    """End the target's QEMU and prove that it is gone."""


@dataclass(frozen=True, slots=True)
class ResumeSource:
    """See to it that the source runs, if it ran before."""


@dataclass(frozen=True, slots=True)
class RestoreSendQueue:
    """Give the source host's send queue back."""


@dataclass(frozen=True, slots=True)
class RemoveCredentials:
    """Let neither host, nor the guest's QEMU on that side, have keys of this move any more."""

    side: Side


@dataclass(frozen=True, slots=True)
class RestoreGuest:
    """Leave nothing set in the guest's QEMU on that side for the sake of the move.

    `balloon` is the bytes of memory that its balloon left to it before; 0 where that was not touched.
    """

    side: Side
    balloon: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The migration has ended: write the outcome."""


Command = (
    Check
    | CopyMedia
    | PrepareTarget
    | PrepareSource
    | StopSource
    | PowerOff
    | EndSource
    | StartTarget
    | RestorePower
    | StartMirrors
    | UnplugDevices
    | PlugDevices
    | EndMirrors
    | ContinueStream
    | GoOver
    | MendStream
    | KeepImages
    | LeaveOldCopies
    | CancelMirrors
    | RemoveImages
    | StartStream
    | Adjust
    | ContinueTarget
    | Observe
    | Verify
    | CompareDisks
    | RecordHome
    | RemoveSource
    | CancelStream
    | DestroyTarget
    | ResumeSource
    | RestoreSendQueue
    | RestoreGuest
    | RemoveCredentials
    | Finish
)

EVENTS: tuple[type[Event], ...] = (
    Begin,
    Checked,
    MediaCopied,
    TargetPrepared,
    SourcePrepared,
    SourcePaused,
    PoweredOff,
    SourceEnded,
    TargetStarted,
    MirrorsReady,
    Unplugged,
    MirrorLost,
    StreamHeld,
    MirrorsEnded,
    WentOver,
    StreamBroke,
    StreamMended,
    StreamStarted,
    Decided,
    SourceStopped,
    SourceResumed,
    StreamEnded,
    TargetRunning,
    Verified,
    DisksCompared,
    SourceRemoved,
    Undone,
    StepFailed,
    Lost,
    Observed,
    CancelRequested,
    Resolved,
    GiveUp,
)
COMMANDS: tuple[type[Command], ...] = (
    Check,
    CopyMedia,
    PrepareTarget,
    PrepareSource,
    StopSource,
    PowerOff,
    EndSource,
    StartTarget,
    RestorePower,
    StartMirrors,
    UnplugDevices,
    PlugDevices,
    EndMirrors,
    ContinueStream,
    GoOver,
    MendStream,
    KeepImages,
    LeaveOldCopies,
    CancelMirrors,
    RemoveImages,
    StartStream,
    Adjust,
    ContinueTarget,
    Observe,
    Verify,
    CompareDisks,
    RecordHome,
    RemoveSource,
    CancelStream,
    DestroyTarget,
    ResumeSource,
    RestoreSendQueue,
    RestoreGuest,
    RemoveCredentials,
    Finish,
)
