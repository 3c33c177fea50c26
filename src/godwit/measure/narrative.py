"""The journal's lines as sentences, for people: the same words on the screen, in `godwit show` and in the report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from godwit.ports import Entry


class Weight(StrEnum):
    """How much a line matters to somebody who only watches."""

    DETAIL = "detail"
    """Told in `show` and the report, not on the screen."""
    STEP = "step"
    DECISION = "decision"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One line of a story: UNIX seconds, weight, what happened; `because` and `mend` are word for word."""

    at: float
    weight: Weight
    text: str
    because: str = ""
    mend: str = ""


PHASE_WORDS: Final[Mapping[str, str]] = {
    "pending": "looking at both hosts",
    "preparing": "preparing both sides",
    "mirroring": "copying disks while the guest runs",
    "unplugging": "taking from the guest what cannot travel",
    "precopy": "copying memory while the guest runs",
    "switchover": "the guest stands still, the rest is sent",
    "postcopy": "the guest runs on the target, the rest of its memory follows",
    "powering-off": "the guest switches itself off",
    "starting": "the guest is off, and is being started on the target",
    "committing": "handing the guest over",
    "finishing": "the guest runs on the target",
    "rolling-back": "going back",
    "done": "the guest has moved",
    "cancelled": "the guest stays where it was",
    "failed": "the migration has failed",
    "limbo": "limbo: nobody can know who owns the guest",
}

_STANDING_STILL: Final[Mapping[str, str]] = {
    "mirroring": "copying disks while the guest stands still",
    "precopy": "copying memory while the guest stands still",
}


def phase_words(phase: str, way: str) -> str:
    """Say what a phase means on that way; empty for a phase that nobody knows."""
    still = _STANDING_STILL.get(phase) if way == "static" else None
    return still or PHASE_WORDS.get(phase, "")


_STEPS: Final[Mapping[str, str]] = {
    "Check": "looking at both hosts",
    "CopyMedia": "copying what the guest only reads",
    "CompareDisks": "comparing the copied disks",
    "PrepareTarget": "preparing the target",
    "PrepareSource": "preparing the source",
    "StopSource": "stopping the guest",
    "GoOver": "letting the guest go over to the target",
    "MendStream": "connecting the guest to its memory again",
    "PowerOff": "switching the guest off",
    "EndSource": "ending the source",
    "StartTarget": "starting the target",
    "RestorePower": "making the guest run on the source again",
    "StartMirrors": "copying disks",
    "EndMirrors": "ending the copies of disks",
    "ContinueStream": "letting the held stream go on",
    "KeepImages": "letting the guest have its copied disks",
    "CancelMirrors": "ending the copies of disks before their time",
    "RemoveImages": "removing images from the target",
    "LeaveOldCopies": "marking the old disks on the source",
    "UnplugDevices": "taking from the guest what cannot travel",
    "PlugDevices": "giving the guest its devices again",
    "StartStream": "starting the stream",
    "Adjust": "changing the running stream",
    "ContinueTarget": "telling the target to run",
    "Verify": "looking whether the guest is alive",
    "RecordHome": "writing down where the guest lives",
    "RemoveSource": "removing the source",
    "CancelStream": "cancelling the stream",
    "DestroyTarget": "removing the target",
    "ResumeSource": "making the source run again",
    "RestoreGuest": "putting the guest's QEMU back as it was",
    "RemoveCredentials": "removing the keys of this move",
    "RestoreSendQueue": "giving the source's send queue back",
}

_UNDONE: Final[Mapping[str, str]] = {
    "CancelStream": "the stream is cancelled",
    "CancelMirrors": "the copies of disks are ended",
    "RecordHome": "the guest lives on the target from now on",
    "KeepImages": "the copied disks are the guest's own",
    "LeaveOldCopies": "the old disks on the source are marked as such, or gone",
    "RemoveImages": "no image of this migration is left on the target",
    "DestroyTarget": "nothing of the guest is left on the target",
    "ResumeSource": "the guest runs on the source",
    "RestorePower": "the guest runs on the source",
    "PlugDevices": "what was taken from the guest has been seen to",
    "RestoreGuest": "nothing of the move is left set in the guest's QEMU",
    "RemoveCredentials": "no host has keys of this move any more",
    "RestoreSendQueue": "the source's send queue is as it was",
}

_MARKS: Final[Mapping[str, str]] = {
    "stream_started": "the source was told to send",
    "source_stopped": "the source's CPUs stand still (STOP)",
    "source_completed": "the source has sent everything",
    "mirrors_ended": "the disks on the target are complete",
    "target_completed": "the target has received everything",
    "continue_sent": "the target was told to run",
    "target_running": "the target's CPUs run (RESUME)",
}


def sentence(entry: Entry) -> Sentence | None:
    """Return what a line of the journal says, or None for mere figures (samples, the probe's series)."""
    match entry.kind:
        case "transition":
            return _transition(entry)
        case "finding":
            return _finding(entry)
        case "mark":
            name = text_of(entry.data, "name")
            return Sentence(entry.at, Weight.DETAIL, _MARKS.get(name, name.replace("_", " ")))
        case "forecast":
            weight = Weight.WARNING if entry.data.get("ends") is False else Weight.STEP
            because = text_of(entry.data, "why") if weight is Weight.STEP else ""
            return Sentence(entry.at, weight, text_of(entry.data, "text"), because)
        case "fence" | "device" | "note" | "protecting" as kind:
            weight = {"fence": Weight.WARNING, "device": Weight.STEP}.get(kind, Weight.DETAIL)
            return Sentence(entry.at, weight, text_of(entry.data, "text"))
        case _:
            return None


_LARGEST: Final = 1 << 80
"""Larger than any figure that is written down; NaN and infinity are none."""


def text_of(data: Mapping[str, object], key: str) -> str:
    """Return a text of the journal, empty where there is none."""
    value = data.get(key)
    return value if isinstance(value, str) else ""


def number_of(data: Mapping[str, object], key: str) -> float | None:
    """Return a number of the journal, or None."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST < value < _LARGEST:
        return None
    return float(value)


def mapping_of(data: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Return a nested object of the journal, empty where there is none."""
    value = data.get(key)
    return {str(name): one for name, one in value.items()} if isinstance(value, dict) else {}


def _finding(entry: Entry) -> Sentence:
    data = entry.data
    weight = {"block": Weight.ERROR, "warn": Weight.WARNING}.get(text_of(data, "severity"), Weight.STEP)
    found, why = text_of(data, "found"), text_of(data, "why")
    return Sentence(entry.at, weight, found, why, text_of(data, "mend"))


def _transition(entry: Entry) -> Sentence | None:
    event, detail = text_of(entry.data, "event"), mapping_of(entry.data, "detail")
    simple = _SIMPLE.get(event)
    if simple is not None:
        return Sentence(entry.at, simple[0], simple[1])
    tell = _TELLERS.get(event)
    if tell is None:
        return Sentence(entry.at, Weight.DETAIL, event)
    return tell(entry.at, detail)


_SIMPLE: Final[Mapping[str, tuple[Weight, str]]] = {
    "Begin": (Weight.DETAIL, "the migration was asked for"),
    "Checked": (Weight.STEP, "preflight found nothing that blocks"),
    "MediaCopied": (Weight.STEP, "what the guest only reads is on the target, the same"),
    "SourcePrepared": (Weight.DETAIL, "the source is prepared"),
    "StreamStarted": (Weight.DETAIL, "the stream runs"),
    "Unplugged": (Weight.STEP, "the guest has let go of what cannot travel"),
    "MirrorsReady": (Weight.STEP, "the disks are on the target, and each write reaches both"),
    "StreamHeld": (Weight.DETAIL, "the source waits before the switchover"),
    "StreamMended": (Weight.STEP, "the guest is connected to the rest of its memory again"),
    "MirrorsEnded": (Weight.DETAIL, "the disks on the target are complete"),
    "SourcePaused": (Weight.STEP, "the guest stands still from now on, until it runs on the target"),
    "PoweredOff": (Weight.STEP, "the guest is off"),
    "SourceEnded": (Weight.DETAIL, "nothing on the source has the guest's disks open any more"),
    "TargetStarted": (Weight.DETAIL, "the target is ready to start the guest"),
    "SourceStopped": (Weight.DETAIL, "the source has stopped the guest"),
    "SourceResumed": (Weight.WARNING, "the source has taken the guest back"),
    "TargetRunning": (Weight.DETAIL, "the target runs the guest"),
    "SourceRemoved": (Weight.STEP, "nothing of the guest is left on the source"),
}


def _target_prepared(at: float, detail: Mapping[str, object]) -> Sentence:
    uri, disks = text_of(detail, "uri"), text_of(detail, "disks_uri")
    where = f"the target waits, paused, at {uri}" if uri else "the target can be started"
    return Sentence(at, Weight.DETAIL, f"the target takes disks at {disks}" if disks and not uri else where)


def _decided(at: float, detail: Mapping[str, object]) -> Sentence:
    parameters = mapping_of(detail, "parameters")
    changed = ", ".join(f"{name}={value}" for name, value in parameters.items())
    reason = text_of(detail, "reason")
    text = f"{reason} [{changed}]" if changed else reason
    return Sentence(at, Weight.DECISION, text, text_of(detail, "evidence"))


def _stream_ended(at: float, detail: Mapping[str, object]) -> Sentence:
    status = text_of(detail, "status")
    weight = Weight.DETAIL if status == "completed" else Weight.WARNING
    return Sentence(at, weight, f"the {text_of(detail, 'side')} says that the stream {status}")


def _went_over(at: float, detail: Mapping[str, object]) -> Sentence:
    return Sentence(at, Weight.DETAIL, f"the {text_of(detail, 'side')} says that the guest goes over before its memory")


def _broke(at: float, detail: Mapping[str, object]) -> Sentence:
    return Sentence(at, Weight.WARNING, f"the {text_of(detail, 'side')} has lost the connection to the guest's memory")


def _verified(at: float, detail: Mapping[str, object]) -> Sentence:
    said = {True: "the guest is alive", False: "the guest does not answer", None: "the guest was started"}
    alive = detail.get("alive")
    known = alive if isinstance(alive, bool) else None
    weight = Weight.WARNING if known is False else Weight.STEP
    why = text_of(detail, "detail")
    return Sentence(at, weight, f"{said[known]}: {why}" if why else said[known])


def _disks_compared(at: float, detail: Mapping[str, object]) -> Sentence:
    found = mapping_of(detail, "comparison")
    leftover = text_of(detail, "leftover")
    left = f"; {leftover}" if leftover else ""
    if found.get("equal") is True:
        weight = Weight.WARNING if leftover else Weight.STEP
        return Sentence(at, weight, f"the copied disks are what they were copied from{left}")
    return Sentence(at, Weight.ERROR, f"{text_of(found, 'detail')}{left}")


def _undone(at: float, detail: Mapping[str, object]) -> Sentence:
    step, leftover = text_of(detail, "step"), text_of(detail, "leftover")
    if leftover:
        return Sentence(at, Weight.WARNING, leftover)
    return Sentence(at, Weight.STEP, _UNDONE.get(step, f"{step} is undone"))


def _step_failed(at: float, detail: Mapping[str, object]) -> Sentence:
    step = text_of(detail, "step")
    text = f"{_STEPS.get(step, step)} failed: {text_of(detail, 'message')}"
    return Sentence(at, Weight.ERROR, text, mend=text_of(detail, "remedy"))


def _lost(at: float, detail: Mapping[str, object]) -> Sentence:
    return Sentence(at, Weight.WARNING, f"the connection to the {text_of(detail, 'side')}'s monitor ended")


def _observed(at: float, detail: Mapping[str, object]) -> Sentence:
    def side(name: str) -> str:
        view = mapping_of(detail, name)
        stream = text_of(view, "stream")
        words = text_of(view, "state") + (f", stream {stream}" if stream not in {"", "none"} else "")
        return f"{name} {words}"

    restarted = "a new runner looked: " if detail.get("restarted") is True else "both sides were looked at: "
    weight = Weight.WARNING if detail.get("restarted") is True else Weight.DETAIL
    return Sentence(at, weight, f"{restarted}{side('source')}; {side('target')}")


def _cancel_requested(at: float, detail: Mapping[str, object]) -> Sentence:
    by = text_of(detail, "by")
    return Sentence(at, Weight.WARNING, f"{by or 'somebody'} asked to cancel")


def _resolved(at: float, detail: Mapping[str, object]) -> Sentence:
    by, owner = text_of(detail, "by") or "somebody", text_of(detail, "owner")
    return Sentence(at, Weight.WARNING, f"{by} decided that the guest is the {owner}'s")


def _give_up(at: float, detail: Mapping[str, object]) -> Sentence:
    return Sentence(at, Weight.ERROR, text_of(detail, "reason"), mend=text_of(detail, "remedy"))


def _mirror_lost(at: float, detail: Mapping[str, object]) -> Sentence:
    name, reason = text_of(detail, "name"), text_of(detail, "reason")
    return Sentence(at, Weight.ERROR, f"the copy of disk {name} ended before its time: {reason}")


_TELLERS: Final[Mapping[str, Callable[[float, Mapping[str, object]], Sentence]]] = {
    "TargetPrepared": _target_prepared,
    "Decided": _decided,
    "MirrorLost": _mirror_lost,
    "StreamEnded": _stream_ended,
    "WentOver": _went_over,
    "StreamBroke": _broke,
    "Verified": _verified,
    "DisksCompared": _disks_compared,
    "Undone": _undone,
    "StepFailed": _step_failed,
    "Lost": _lost,
    "Observed": _observed,
    "CancelRequested": _cancel_requested,
    "Resolved": _resolved,
    "GiveUp": _give_up,
}
