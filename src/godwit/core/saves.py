"""Saving a guest to a file and restoring it: what is written in which way, and how far a job of either kind is."""

from __future__ import annotations

import posixpath
import re
import shlex
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.model import Vm  # noqa: TC001 - pydantic reads it at run time

if TYPE_CHECKING:
    from godwit.model import Features, GuestFacts

STREAM_AT: Final = 1 << 20
"""Bytes of the file before QEMU's stream: they hold the description. Mapped RAM is laid out in steps of this size
(MAPPED_RAM_FILE_OFFSET_ALIGNMENT in migration/ram.c), so that direct I/O stays aligned."""

SEAL_AT: Final = STREAM_AT // 2
"""Where the checksums are, which are known last."""

CHUNK: Final = 256 << 20
"""Bytes of the stream that have one checksum: a damage is told by where it is, and progress by how many are done."""

CHANNELS: Final = 2
"""Threads of QEMU that write pages at the same time. Measured with 640 MiB: 0.45 s, against 1.30 s for a plain file."""

READERS: Final = 2
"""Chunks that are read at the same time: making a checksum takes a processor longer than reading."""

LONGEST_PATH: Final = 1024


class Work(StrEnum):
    """The two kinds of job."""

    SAVE = "save"
    RESTORE = "restore"


class Step(StrEnum):
    """How far a job is. It is on disk before anything of the step is done."""

    PENDING = "pending"
    """Nothing was touched."""
    WRITING = "writing"
    """Save: the guest is stopped, its memory written. The way out is back: it runs on."""
    HANDING = "handing"
    """Save: the file is whole and gets its name; then QEMU is ended. Which of both came first decides the way out."""
    CHECKING = "checking"
    """Save: only the file is left, its checksums are made. Restore: they are compared; nothing was touched."""
    LOADING = "loading"
    """Restore: a QEMU reads the file, and was never told to run."""
    STARTING = "starting"
    """Restore: it may have been told to run."""
    UNDOING = "undoing"
    """On the way back."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS: Final = frozenset({Step.DONE, Step.FAILED, Step.CANCELLED})


class Compression(StrEnum):
    """Programs of the host that can make a save smaller."""

    ZSTD = "zstd"
    GZIP = "gzip"


class Way(StrEnum):
    """How QEMU writes the stream; the first is the fastest."""

    MAPPED = "mapped-ram"
    MAPPED_BUFFERED = "mapped-ram-buffered"
    FILE = "file"
    PIPE = "pipe"
    ZSTD = "zstd"
    GZIP = "gzip"

    @property
    def mapped(self) -> bool:
        """Whether pages lie at fixed places, which several threads write."""
        return self in {Way.MAPPED, Way.MAPPED_BUFFERED}

    @property
    def piped(self) -> bool:
        """Whether the stream goes through a program of the host, whose status tells whether it was written."""
        return self in _WRITERS


_WRITERS: Final = {Way.PIPE: "cat", Way.ZSTD: "zstd -q -1 -c", Way.GZIP: "gzip -1 -c"}
_READERS: Final = {Way.PIPE: "cat", Way.ZSTD: "zstd -d -q -c", Way.GZIP: "gzip -d -c"}
_MAPPED_NEEDS: Final = frozenset({"mapped-ram", "multifd"})

DISTURBING: Final = (
    *("xbzrle", "return-path", "pause-before-switchover", "postcopy-ram", "postcopy-preempt", "auto-converge"),
    *("background-snapshot", "dirty-limit", "zero-copy-send", "switchover-ack", "x-ignore-shared", "multifd"),
    *("mapped-ram", "compress", "rdma-pin-all", "x-colo", "release-ram"),
)
"""Capabilities that an earlier migration may have left on, and that make a file another than it is said to be, or
that QEMU does not take together with mapped-ram."""

_LEARN_OTHERWISE: Final = re.compile(r"unknown migration protocol|O_DIRECT|direct.io|Invalid argument", re.IGNORECASE)


def ways(features: Features, compression: Compression | None) -> tuple[Way, ...]:
    """Return the ways to try, the best first. Whether QEMU knows `file:` shows only when it is told to use it."""
    if compression is not None:
        return (Way(compression.value),)
    plain = (Way.FILE, Way.PIPE)
    if not features.capabilities >= _MAPPED_NEEDS:
        return plain
    direct = (Way.MAPPED,) if "direct-io" in features.parameters else ()
    return (*direct, Way.MAPPED_BUFFERED, *plain)


def another_way(words: str) -> bool:
    """Say whether QEMU's `words` mean that this way does not exist here, rather than that the file cannot be made."""
    return _LEARN_OTHERWISE.search(words) is not None


def capabilities(way: Way, features: Features) -> dict[str, bool]:
    """Return what is to be set for a way: nothing that an earlier migration left on stays so."""
    wanted = dict.fromkeys(DISTURBING, False) | dict.fromkeys(_MAPPED_NEEDS, way.mapped)
    wanted |= {"events": True, "late-block-activate": True}
    return {name: state for name, state in sorted(wanted.items()) if name in features.capabilities}


def afterwards(features: Features) -> dict[str, bool]:
    """Return what is to be set when the guest goes on: a migration to another host takes neither."""
    return {name: False for name in sorted(_MAPPED_NEEDS) if name in features.capabilities}


def parameters(way: Way, features: Features) -> dict[str, int | str | bool]:
    """Return the parameters of a way, in QEMU's units; 0 is no limit."""
    chosen: dict[str, int | str | bool] = {"max-bandwidth": 0}
    if way.mapped:
        chosen["multifd-channels"] = CHANNELS
    if "multifd-compression" in features.parameters:  # an earlier move may have left another
        chosen["multifd-compression"] = "none"
    if "direct-io" in features.parameters:
        chosen["direct-io"] = way is Way.MAPPED
    return chosen


def outgoing(way: Way, part: str) -> str:
    """Return the URI that writes the stream to `part`, behind the place of the description."""
    if not way.piped:
        return f"file:{part},offset={STREAM_AT:#x}"
    # The program's end comes after the stream's: what it says then is all that tells whether the last bytes were kept.
    path = shlex.quote(part)
    return f"exec:{_WRITERS[way]} >> {path}; echo $? > {shlex.quote(status_of(part))}"


def incoming(way: Way, path: str) -> str:
    """Return the URI that reads the stream of a save."""
    if not way.piped:
        return f"file:{path},offset={STREAM_AT:#x}"
    return f"exec:tail -c +{STREAM_AT + 1} -- {shlex.quote(path)} | {_READERS[way]}"


def part_of(path: str, identifier: str) -> str:
    """Return where a save is written until it is whole: in the same folder, so that it only needs another name."""
    return f"{path}.part-{identifier}"


def status_of(part: str) -> str:
    """Return the file to which a program that writes tells how it ended."""
    return f"{part}.status"


def checked_path(path: str) -> str:
    """Return the path of a save; raise InputError for one that a host, QEMU and a shell could not mean alike."""
    if not path.startswith("/"):
        message = f"{path!r} is no absolute path"
        raise InputError(message, remedy="name the file as /folder/FILE on the host")
    if "," in path or any(ord(letter) < ord(" ") for letter in path):
        message = f"{path!r} has a comma or a control character, which QEMU would take for something else"
        raise InputError(message, remedy="choose another name")
    if len(path) > LONGEST_PATH or path.endswith("/") or posixpath.basename(path) in {".", ".."}:
        message = f"{path[:80]!r} can be no file's name"
        raise InputError(message, remedy="name the file as /folder/FILE on the host")
    return posixpath.normpath(path)


def why_not(facts: GuestFacts) -> tuple[str, ...]:
    """Return why the guest could not be started again from a file exactly as it is now."""
    reasons = [f"QEMU says: {one}" for one in facts.blockers]
    reasons += ["libvirt owns it"] if facts.libvirt else []
    reasons += [f"it was given an open file: {one}" for one in facts.inherited_descriptors]
    reasons += facts.refusals
    reasons += [f"{one.name} is not to be found again from /: it is {one.path}" for one in facts.stray_images]
    return tuple(reasons)


@dataclass(frozen=True, slots=True)
class Job:
    """One save or restore, as it is written down. `path` is the file, on `host`.

    `was_running` says whether the guest ran before it was stopped, `stopped_s` how long it took from there until the
    file was whole, `bytes` how large that is. `done` of `total` bytes is how far the present step is. A job that failed
    has `code`, `error` and `remedy`; `notes` are what the user should know besides.
    """

    id: str
    work: Work
    vm: str
    host: str
    path: str
    created: float
    compression: Compression | None = None
    verify: bool = True
    step: Step = Step.PENDING
    steps: tuple[tuple[Step, float], ...] = ()
    was_running: bool = True
    way: Way | None = None
    done: int = 0
    total: int = 0
    bytes: int = 0
    stopped_s: float | None = None
    code: str = ""
    error: str = ""
    remedy: str = ""
    cancelled: bool = False
    notes: tuple[str, ...] = ()
    guest: Vm | None = None
    """Restore: what the file holds, from the step LOADING on."""

    @property
    def part(self) -> str:
        """Where the file is written until it is whole."""
        return part_of(self.path, self.id)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.step in ENDS

    @property
    def percent(self) -> float:
        """How far the present step is."""
        return 100.0 * min(1.0, self.done / self.total) if self.total else 0.0

    def at(self, step: Step, instant: float) -> Job:
        """Return the job at its next step."""
        return replace(self, step=step, steps=(*self.steps, (step, instant)), done=0, total=0)

    def seconds(self, *steps: Step) -> float:
        """Return how long steps took; one that is under way counts nothing."""
        ends = [instant for _, instant in self.steps[1:]]
        return sum(end - begun for (step, begun), end in zip(self.steps, ends, strict=False) if step in steps)
