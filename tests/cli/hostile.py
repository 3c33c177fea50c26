"""A stage on which everything that comes from outside is hostile: hosts, guests, QEMU, journal, files."""

from __future__ import annotations

import asyncio
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from clistage import Stage

from godwit.core.saves import Job, Step, Work
from godwit.core.sending import SendRecord, SendStep
from godwit.model import DirtyWindow, GuestView, Profile, RunState

if TYPE_CHECKING:
    from godwit.hosts.fake import FakeHost
    from godwit.model import HostFacts, Vm

T = TypeVar("T")

EVIL = (
    "\x1b]0;mine\x07\x1b[2J[bold red]\u202e</script><img src=x onerror=alert(1)>\x00\x9b31m\udc9b\r\n"
    "mend: rm -rf /\u2028'\"&"
)
"""Escape sequences, rich's markup, a turn of direction, tags, NUL, a C1 control, half a character, line breaks."""

LONG = EVIL * 400

_STEERING = frozenset(
    {"event", "phase", "owner", "severity", "kind", "name", "side", "state", "status", "step", "id", "vm", "source"}
    | {"target", "host", "url", "identifier", "way", "work", "argv", "code", "text64", "format", "sibling"}
)
"""What is looked up or has a set of words: the journal's reader refuses anything else, see test_fuzz."""


def spoilt(value: T, evil: str = EVIL) -> T:
    """Return a value of ours with every free text in it made hostile."""
    return _spoilt(value, evil, "")  # type: ignore[no-any-return] # a copy of the same kind


def _spoilt(value: Any, evil: str, key: str) -> Any:  # noqa: ANN401 - any value of ours
    if isinstance(value, Enum) or key in _STEERING:
        return value
    if isinstance(value, str):
        return f"{value}{evil}"
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _spoilt(getattr(value, one.name), evil, one.name) for one in fields(value)})
    if isinstance(value, dict):
        return {name: _spoilt(one, evil, name) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_spoilt(one, evil, key) for one in value)
    return value


class HostileStage(Stage):
    """What the guest's QEMU, its hosts and the journal say is hostile once `spoil` was called."""

    def spoil(self, evil: str = EVIL) -> None:
        """Make all that was written down hostile, and all that hosts say from now on."""
        for host in self.world.hosts.values():
            _spoil_host(host, evil)
        asyncio.run(self._spoil_book(evil))

    async def _spoil_book(self, evil: str) -> None:
        for vm in await self.inventory.vms():
            launch = replace(vm.launch, argv=(*vm.launch.argv, "-append", evil), working_directory=f"/{evil}")
            await self.inventory.put_vm(replace(spoilt(replace(vm, source_text="name = 1\n"), evil), launch=launch))
        for record in await self.inventory.hosts():
            await self.inventory.put_host(spoilt(replace(record, identity_file="/key", known_hosts="/known"), evil))
        for story in self.journal._stories.values():
            story.entries = [replace(entry, data=_spoilt(entry.data, evil, "")) for entry in story.entries]
            for kind, data in _lines(evil):
                story.write(kind, story.created, data)
            if story.outcome is not None:
                story.outcome = replace(
                    spoilt(story.outcome, evil), error=evil, remedy=evil, leftovers=(evil, evil), guest_alive=False
                )
        await self._spoil_jobs(evil)

    async def _spoil_jobs(self, evil: str) -> None:
        launch = (await self.inventory.vm("web1")).launch
        sending = SendRecord(evil, "web1", evil, "host1", evil, SendStep.CARRYING, launch, running=True, made=True)
        await self.inventory.put_send(sending)
        windows = (DirtyWindow(1.0, 1 << 20), DirtyWindow(2.0, 1 << 20))
        await self.journal.history.put_profile(Profile("web1", "host2", 1.0, 1 << 29, windows, unsampled=evil))


def _lines(evil: str) -> list[tuple[str, dict[str, object]]]:
    """Return lines of every kind, as a QEMU, a host or another writer of the journal might have them."""
    finding: dict[str, object] = {
        "code": evil,
        "severity": "block",
        "subject": evil,
        "found": evil,
        "why": evil,
        "mend": evil,
    }
    details: dict[str, dict[str, object]] = {
        "StepFailed": {"step": evil, "message": evil, "remedy": evil},
        "Decided": {"reason": evil, "evidence": evil, "parameters": {evil: evil}},
        "MirrorLost": {"name": evil, "reason": evil},
        "StreamEnded": {"side": evil, "status": evil},
        "Verified": {"alive": False, "detail": evil},
        "Undone": {"step": evil, "leftover": evil},
        "CancelRequested": {"by": evil},
        "GiveUp": {"reason": evil, "remedy": evil},
        "Observed": {"source": {"state": evil, "stream": evil}, "target": {"state": evil}, "restarted": True},
        "DisksCompared": {"comparison": {"equal": False, "detail": evil}},
        "TargetPrepared": {"uri": evil},
        evil: {},
    }
    told: list[tuple[str, dict[str, object]]] = [
        ("transition", {"event": event, "detail": detail, "phase": "done"}) for event, detail in details.items()
    ]
    return [
        *told,
        ("finding", finding),
        ("note", {"text": evil}),
        ("forecast", {"text": evil, "why": evil}),
        ("mark", {"name": evil}),
        ("mirror", {"name": evil, "done": 1, "length": 2}),
        (evil, {evil: evil}),
        ("transition", {"event": "Begin", "detail": {}, "phase": evil}),
    ]


def _spoil_host(host: FakeHost, evil: str) -> None:
    told = host.facts

    async def facts(qemu: str | None = None) -> HostFacts:
        return replace(spoilt(await told(qemu), evil), migration_address=host.migration_address)

    async def observe(vm: Vm) -> GuestView:
        del vm
        return GuestView(RunState.OTHER, raw=evil, pid=7, detail=evil)

    host.facts = facts  # type: ignore[method-assign] # this host lies
    host.observe = observe  # type: ignore[method-assign] # as above


def failed_job(work: Work) -> Job:
    """Return a save or a restore that failed, with hostile words."""
    steps = ((Step.CHECKING, 2.0), (Step.FAILED, 3.0))
    job = Job("web1-s0000", work, "web1", "host1", f"/{EVIL}", 1.0, steps=steps, step=Step.FAILED)
    return replace(job, code="save-failed", error=EVIL, remedy=EVIL, notes=(EVIL, EVIL))
