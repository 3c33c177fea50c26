"""What the host's /proc says of a QEMU process, for rooms that cannot look themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.model import Tap


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """A QEMU process, as /proc/PID shows it.

    `cwd` is where it is now: a QEMU started with -daemonize has moved to "/" (os-posix.c), so its relative
    paths resolve against `environment["PWD"]`, if that is known. `environment` needs no more than PWD.
    `open_files` are the absolute paths behind /proc/PID/fd, as far as they are regular files or devices;
    `descriptors` is the number of all that it has open, 0 if nobody looked, `cpus` the processors that it may use.
    `macvtaps` are those that Godwit has opened for it, each proven to be behind its descriptor.
    """

    pid: int
    argv: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str] = field(default_factory=dict)
    open_files: tuple[str, ...] = ()
    descriptors: int = 0
    cpus: frozenset[int] = frozenset()
    macvtaps: tuple[Tap, ...] = ()
