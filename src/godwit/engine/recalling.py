"""What a former runner of a migration has seen and told, as far as the journal's entries say more than its state."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from godwit.core.capabilities import HELD
from godwit.core.hooks import Hook
from godwit.core.strategy import Switchover, adjusted
from godwit.model import Allocation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from godwit.ports import Entry


@dataclass(slots=True)
class Recalled:
    """What a runner goes on with that follows another; for a new migration it is as made."""

    switchover: Switchover
    """What the source was told last."""

    hooked: bool = False
    """Whether the hook before the move has run, or had to."""

    hooks_ended: frozenset[str] = frozenset()
    qemus: tuple[str, str] | None = None
    """The versions of QEMU of an upgrade: before, after."""

    encrypted: bool | None = None
    copied: dict[str, int] = field(default_factory=dict)
    """Bytes sent so far, by disk."""

    allocations: dict[str, Allocation] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)
    """Instants that were seen first: seconds since the epoch, by name."""

    def learn(self, entries: Iterable[Entry], *, restarted: bool) -> None:
        """Take up what is written; a migration that is not `restarted` has nothing but its hooks behind it."""
        entries = list(entries)
        hooks = [entry.data for entry in entries if entry.kind == "hook"]
        self.hooked = self.hooked or Hook.BEFORE_MOVE in (data.get("name") for data in hooks)
        self.hooks_ended = frozenset(str(data.get("name")) for data in hooks if data.get("ended") is True)
        for entry in entries if restarted else ():
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        match entry.data:
            case {"event": "Decided", "detail": {"parameters": dict(parameters)}} | {"parameters": dict(parameters)}:
                self.switchover = adjusted(self.switchover, parameters)
            case {"armed": bool(armed), "throttle": int(throttle), "postcopy": bool(over)}:
                held = max(throttle, HELD) if armed else None
                after = entry.data.get("over_after")
                after = after if isinstance(after, int) else 0
                self.switchover = replace(self.switchover, throttle=held, postcopy=over, over_after=after)
            case {"old": str(old), "new": str(new)} if entry.kind == "upgrade":
                self.qemus = (old, new)
            case {"encrypted": bool(encrypted)} if entry.kind == "encryption":
                self.encrypted = encrypted
            case {"name": str(disk), "done": int(done)} if entry.kind == "mirror":
                self.copied[disk] = done
            case {"disk": str(disk), "before": int(before), "after": int(after)} if entry.kind == "allocation":
                self.allocations[disk] = Allocation(disk, before, after)
            case {"name": str(name), "received": received} if entry.kind == "mark":
                for mark, at in ((name, received), (f"{name}_host", entry.data.get("host_time"))):
                    if isinstance(at, int | float):
                        self.marks.setdefault(mark, float(at))
