"""What each command of the machine does to the model world, as the engine and two QEMUs would do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldmodel import SOURCE, TARGET, LawViolationError

from godwit.core import events as e
from godwit.model import (
    Comparison,
    DevicePolicy,
    DirectDevice,
    DiskCopy,
    ImageFacts,
    RunState,
    Side,
    StreamStatus,
    Way,
)

if TYPE_CHECKING:
    from worldmodel import World

COPIES = (DiskCopy("disk0", ImageFacts("/images/web.raw", "raw", 1 << 30, 1 << 20), "job", verify=True),)
MEDIA = (DiskCopy("cd0", ImageFacts("/images/seed.iso", "raw", 1 << 20, 1 << 20), "job2"),)
BALLOON = 1 << 30
DEVICES = (DirectDevice("nic1", DevicePolicy.UNPLUG, "{}", "{}"),)


def effect(world: World, command: e.Command, *, armed: bool) -> e.Event | None:  # noqa: C901, PLR0911, PLR0912, PLR0915 - one case for each command
    """Do to the world what a command does; return the event that its success or failure is.

    `armed` says that the record which permits `cont` on the target is on disk.
    """
    name = type(command).__name__
    at_source = isinstance(
        command,
        (e.PrepareSource | e.StartStream | e.Adjust | e.RemoveSource | e.CancelStream | e.ResumeSource)
        | (e.StartMirrors | e.EndMirrors | e.ContinueStream | e.CancelMirrors | e.LeaveOldCopies)
        | (e.StopSource | e.PowerOff | e.EndSource | e.RestorePower | e.GoOver | e.MendStream | e.UnplugDevices),
    )
    at_target = isinstance(
        command,
        (e.CopyMedia | e.CompareDisks | e.PrepareTarget | e.ContinueTarget | e.DestroyTarget | e.Verify)
        | (e.EndMirrors | e.KeepImages | e.RemoveImages | e.StartTarget),
    )
    if (at_source and not world.source.reachable) or (at_target and not world.target.reachable):
        return e.StepFailed(name, "host-unreachable", f"{name}: the host is silent")
    match command:
        case e.Check():
            media = MEDIA if world.copying else ()
            balloon = BALLOON if world.way is Way.LIVE else 0
            copies = COPIES if world.copying else ()
            encrypted = world.encrypted and bool(copies or world.way is not Way.OFF)
            devices = DEVICES if world.direct and world.way is not Way.OFF else ()
            return e.Checked(copies, world.way, None, media, balloon, encrypted, devices)
        case e.UnplugDevices():
            return _unplug(world)
        case e.PlugDevices(side=side):
            return _plug(world, side)
        case e.StopSource() | e.PowerOff() | e.EndSource() | e.StartTarget() | e.RestorePower():
            return _on_a_standing_guest(world, command)
        case e.CopyMedia():
            world.images = "made"
            return e.MediaCopied()
        case e.CompareDisks():
            gone = world.target.state is RunState.ABSENT
            return e.DisksCompared(Comparison(equal=None if gone else True))
        case e.StartMirrors():
            if RunState.ABSENT in {world.source.state, world.target.state} or world.mirrors == "lost":
                return e.StepFailed(name, "monitor-lost", name)
            world.mirrors = "ready"
            return e.MirrorsReady()
        case e.EndMirrors():
            still = world.source.stream is StreamStatus.HELD or world.way is Way.OFF
            if not still or not world.end_mirrors():
                return e.StepFailed(name, "disk-copy", "a copy is lost")
            return e.MirrorsEnded()
        case e.ContinueStream():
            world.go_on()
            return None
        case e.GoOver():
            world.going_over = True
            return None
        case e.MendStream():
            return e.StreamMended() if world.mend() else e.StepFailed(name, "monitor-command", "no path")
        case e.CancelMirrors():
            world.mirrors = "ended" if world.mirrors == "ended" else "none"
            return e.Undone(name)
        case e.KeepImages():
            world.images = "kept"
            return e.Undone(name)
        case e.LeaveOldCopies():
            if world.source.state is not RunState.ABSENT:
                return e.StepFailed(name, "host", "a process has them open")
            world.leave_old_copies()
            return e.Undone(name)
        case e.RemoveImages():
            world.remove_images()
            return e.Undone(name)
        case e.PrepareTarget(encrypted=encrypted):
            world.keys |= {TARGET} if encrypted else set()
            if world.copying:
                world.images = "made"
            if world.target.state is RunState.ABSENT:
                world.target.state, world.target.connected = RunState.INCOMING, True
            return e.TargetPrepared("tcp:target:1")
        case e.PrepareSource(encrypted=encrypted):
            world.keys |= {SOURCE} if encrypted else set()
            if world.source.state is RunState.ABSENT:
                return e.StepFailed(name, "monitor-lost", name)
            world.send_queue_shortened, world.source.connected = world.way is not Way.OFF, True
            world.inflated = world.way is Way.LIVE
            return e.SourcePrepared()
        case e.StartStream():
            if world.source.state is RunState.ABSENT:
                return e.StepFailed(name, "monitor-lost", name)
            if world.direct and world.device is not None:
                raise LawViolationError("a stream was begun of a guest that has a device which cannot be sent")
            world.source.stream = StreamStatus.ACTIVE
            if world.target.state is not RunState.INCOMING:
                world.end_stream(StreamStatus.FAILED)
            return e.StreamStarted()
        case e.ContinueTarget():
            return _continue_target(world, armed=armed)
        case e.Verify():
            return e.Verified(world.target.state is RunState.RUNNING)
        case e.RecordHome():
            world.home = TARGET
            return e.Undone(name)
        case e.RemoveSource():
            world.remove_source()
            return e.SourceRemoved()
        case e.CancelStream():
            world.end_stream(StreamStatus.CANCELLED)
            return e.Undone(name)
        case e.DestroyTarget():
            world.destroy_target()
            return e.Undone(name)
        case e.ResumeSource():
            return _resume_source(world)
        case e.RestoreGuest(side=side, balloon=size):
            if not world.side(side).reachable:
                return e.StepFailed(name, "host-unreachable", f"{name}: the host is silent")
            world.inflated = world.inflated and (size != BALLOON or world.side(side).state is RunState.ABSENT)
            return e.Undone(name)
        case e.RemoveCredentials(side=side):
            world.keys &= {one for one in Side if not world.side(one).reachable}
            if SOURCE in world.keys or not world.side(side).reachable:
                return e.StepFailed(name, "host-unreachable", f"{name}: the host is silent")
            return e.Undone(name, "keys are left on the target" if world.keys else "")
        case e.RestoreSendQueue():
            if not world.source.reachable:
                return e.StepFailed(name, "host-unreachable", f"{name}: the host is silent")
            world.send_queue_shortened = False
            return e.Undone(name)
        case _:
            return None


def _on_a_standing_guest(world: World, command: e.Command) -> e.Event | None:  # noqa: PLR0911 - as above
    """Do what belongs to a guest that is stopped, or switched off, for its move."""
    name = type(command).__name__
    match command:
        case e.StopSource() | e.PowerOff() if world.source.state is RunState.ABSENT:
            return e.StepFailed(name, "monitor-lost", name)
        case e.StopSource():
            world.stop_source()
            return e.SourcePaused()
        case e.PowerOff():
            return _power_off(world)
        case e.EndSource(decided=decided):
            world.end_source(decided=decided)
            return e.SourceEnded()
        case e.StartTarget():
            world.start_target()
            return e.TargetStarted()
        case e.RestorePower():
            return e.Undone(name) if world.restore_power() else e.StepFailed(name, "qemu-died", "locked")
        case _:
            return None


def _unplug(world: World) -> e.Event:
    """Ask the guest to let go of its device: it does, or never will, or stands still and cannot."""
    if world.source.state is RunState.ABSENT:
        return e.StepFailed("UnplugDevices", "monitor-lost", "UnplugDevices")
    if world.source.state is not RunState.RUNNING or world.deaf:
        return e.StepFailed("UnplugDevices", "hypervisor", "the guest does not let go")
    if not world.permits_unplugging:
        raise LawViolationError("a device was taken before it was written down that it is to be given back")
    world.device = None
    return e.Unplugged()


def _plug(world: World, side: Side) -> e.Event:
    """Give the guest its device, or what stands for it."""
    if not world.side(side).reachable:
        return e.StepFailed("PlugDevices", "host-unreachable", "the host is silent")
    if world.side(side).state is not RunState.ABSENT:
        world.device = side
    return e.Undone("PlugDevices")


def _power_off(world: World) -> e.Event:
    """Press the power button, if that was not done before, and say whether the guest obeyed."""
    world.pressed = world.pressed or world.source.state is RunState.RUNNING
    if world.switching_off:
        world.switch_off()
    if world.source.state is RunState.POWERED_OFF:
        return e.PoweredOff()
    return e.StepFailed("PowerOff", "not-switched-off", "it does not obey")


def _continue_target(world: World, *, armed: bool) -> e.Event | None:
    """`cont` on the target, permitted only by a record that is on disk."""
    if not armed:
        raise LawViolationError("cont was sent before the record that arms the door was durable")
    if world.target.state is RunState.ABSENT:
        return e.StepFailed("ContinueTarget", "monitor-lost", "no target")
    world.run_target()
    return None


def _resume_source(world: World) -> e.Event:
    """See to it that the source runs."""
    source = world.source
    if source.state is RunState.ABSENT or source.stream is StreamStatus.SWITCHOVER:
        return e.StepFailed("ResumeSource", "monitor-command", "cannot run")
    stands = source.state is RunState.PAUSED and world.stopped_for_the_move
    if stands or source.state in {RunState.POSTMIGRATE, RunState.STOPPED_FOR_SWITCHOVER}:
        world.run_source()
    return e.Undone("ResumeSource")
