"""What simulated disks hold: which writes reached them, their handover stamps, and what guests left behind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHANGE: Final = 1 << 20
"""Bytes that one write of a simulated guest stands for."""

Content = frozenset[int]
NOTHING: Final[Content] = frozenset()


@dataclass(frozen=True, slots=True)
class Mark:
    """What stands beside an image that its guest left behind."""

    vm: str
    stamp: str
    content: Content
    resumed: bool = False


@dataclass(slots=True)
class FakeDisks:
    """The content of each image by its inode, as the set of the writes that it holds; `newest` by guest and path."""

    content: dict[int, Content] = field(default_factory=dict)
    stamps: dict[int, dict[str, Content]] = field(default_factory=dict)
    left: dict[int, Mark] = field(default_factory=dict)
    newest: dict[tuple[str, str], Content] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def holds(self, inode: int) -> Content:
        """Return what an image holds."""
        return self.content.get(inode, NOTHING)

    def write(self, inode: int) -> None:
        """Write once to an image; its stamps take note."""
        number = next(self._numbers)
        self.content[inode] = self.holds(inode) | {number}
        for stamp, since in self.stamps.get(inode, {}).items():
            self.stamps[inode][stamp] = since | {number}

    def tamper(self, inode: int) -> None:
        """Write to an image past all that takes note of it."""
        self.content[inode] = self.holds(inode) | {next(self._numbers)}

    def guest_writes(self, vm: str, path: str, inode: int) -> bool:
        """Let a guest write to its disk; says whether it found there all that it had ever written."""
        known = self.newest.get((vm, path), self.holds(inode))
        found = self.holds(inode) == known
        self.write(inode)
        self.newest[vm, path] = self.holds(inode)
        return found

    def stamp(self, inode: int, name: str) -> None:
        """Set a stamp."""
        self.stamps.setdefault(inode, {})[name] = NOTHING

    def recorded(self, inode: int, stamp: str) -> Content:
        """Return what was written since a stamp."""
        return self.stamps.get(inode, {}).get(stamp, NOTHING)

    def forget_stamps(self, inode: int, *, but: Iterable[str] = ()) -> None:
        """Remove stamps."""
        kept = set(but)
        self.stamps[inode] = {name: since for name, since in self.stamps.get(inode, {}).items() if name in kept}

    def close(self, inode: int, *, keeps_stamps: bool, in_order: bool) -> None:
        """Let a QEMU have closed an image: what cannot keep stamps, or was not closed in order, has none any more."""
        if not (keeps_stamps and in_order):
            self.forget_stamps(inode)

    def copied(self, source: int, target: int, since: str) -> None:
        """Let a copy have ended: whole, or of what the source has recorded since a stamp."""
        if since:
            self.content[target] = self.holds(target) | self.recorded(source, since)
        else:
            self.content[target] = self.holds(source)

    def leave(self, inode: int, vm: str, stamp: str) -> None:
        """Mark an image that its guest left behind."""
        self.left[inode] = Mark(vm, stamp, self.holds(inode))

    def untouched(self, inode: int) -> bool:
        """Say whether an image is what it was when its guest left it."""
        return inode in self.left and self.left[inode].content == self.holds(inode)

    def give_back(self, inode: int) -> None:
        """Take an image that was left behind for such a one again, as it is now."""
        if inode in self.left:
            self.left[inode] = replace(self.left[inode], content=self.holds(inode), resumed=True)

    def gone(self, inode: int) -> None:
        """Forget an image that was removed."""
        for known in (self.content, self.stamps, self.left):
            known.pop(inode, None)
