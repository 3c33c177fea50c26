"""What is written down about each laboratory, and the locks around it.

`/run/godwit/lab/<name>/` holds `state.json`, `lock`, the keys and one folder for each machine. The state is
written before anything else is made, and every name in the kernel follows from its number: whatever instant
the building process dies at, its successor knows what may exist.

The lock is an open file description that every command of the build inherits. The kernel lets go of it when
the last of them has ended, so whoever holds it knows that nothing is being built any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from godwit.errors import LabError
from godwit.lab import links
from godwit.lab.namespaces import ProcessId, boot_id, namespaces_of_number
from godwit.lab.plan import MAX_NUMBER, LabPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_ROOT: Final = Path("/run/godwit/lab")
DATA_ROOT: Final = Path("/var/lib/godwit/lab")
"""Where disks and /var/lib of the hosts are by default: /run is often a small tmpfs without O_DIRECT."""

MARKER: Final = ".godwit-laboratory"
"""Lies in every data folder that a laboratory made; no other folder is ever removed."""

Phase = Literal["building", "up", "removing"]

_STATE: Final = "state.json"
_LOCK: Final = "lock"
_REGISTRY_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True)
class LabState:
    """A laboratory as recorded. `builder` is the process that made it, `boot` the kernel's boot identifier."""

    plan: LabPlan
    directory: Path
    host_tree: Path | None
    builder: ProcessId
    boot: str
    phase: Phase = "building"
    inits: dict[str, ProcessId] = field(default_factory=dict)

    def stale(self) -> bool:
        """Tell whether nobody can be using this: half-built by a process that is gone, or of an earlier boot."""
        if self.boot != boot_id():
            return True
        return self.phase == "removing" or (self.phase == "building" and not self.builder.alive())


_ADAPTER: Final[TypeAdapter[LabState]] = TypeAdapter(LabState)


def folder(name: str) -> Path:
    """Return the folder of the laboratory `name`, whether it exists or not."""
    return RUN_ROOT / name


def names() -> tuple[str, ...]:
    """Return the names of all laboratories that have left anything in `RUN_ROOT`, half-built ones too."""
    if not RUN_ROOT.is_dir():
        return ()
    return tuple(sorted(path.name for path in RUN_ROOT.iterdir() if path.is_dir()))


def read(name: str) -> LabState | None:
    """Return what is recorded about `name`, None if nothing is; raises LabError if it cannot be understood."""
    path = folder(name) / _STATE
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except PermissionError as error:
        message = f"laboratory {name} belongs to root"
        raise LabError(message, remedy="run the same command with sudo") from error
    except ValidationError as error:
        message = f"{path} is not a laboratory's state: {error.error_count()} errors, {error.errors()[0]['msg']}"
        remedy = "use the version of godwit that made it, or remove its namespaces and that folder"
        raise LabError(message, remedy=remedy) from error


def write(state: LabState) -> None:
    """Record `state`, whole or not at all."""
    path = folder(state.plan.name) / _STATE
    fresh = path.with_suffix(".new")
    fresh.write_bytes(_ADAPTER.dump_json(state, indent=1))
    fresh.replace(path)


def change(state: LabState, **values: Any) -> LabState:  # noqa: ANN401 - checked by the dataclass's own fields
    """Record `state` with some fields changed, and return it."""
    changed = replace(state, **values)
    write(changed)
    return changed


def create(plan: LabPlan, host_tree: Path | None, directory: Path | None) -> LabState:
    """Take the name and a number, and record that a laboratory is about to be built.

    Raises LabError if the name or the wanted number is taken, no number is left, or the directory is somebody else's.
    """
    RUN_ROOT.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _registry():
        if folder(plan.name).exists():
            message = f"there is already a laboratory {plan.name}"
            raise LabError(message, remedy=f"godwit lab down {plan.name}, or choose another name")
        data = (directory or DATA_ROOT / plan.name).absolute()
        _check_directory(data)
        state = LabState(
            plan=plan.numbered(_free_number(plan.number)),
            directory=data,
            host_tree=host_tree,
            builder=ProcessId.of(os.getpid()),
            boot=boot_id(),
        )
        folder(plan.name).mkdir(mode=0o700)
        write(state)
    return state


def take_directory(path: Path) -> None:
    """Make a data folder, and show by the marker that it is a laboratory's; what an earlier one left there goes."""
    path.mkdir(parents=True, exist_ok=True)
    (path / MARKER).touch()
    _empty(path)


def forget(state: LabState) -> None:
    """Remove all files of a laboratory; the record goes last, so that a second try finds what the first left."""
    if (state.directory / MARKER).exists():
        _empty(state.directory)
        (state.directory / MARKER).unlink()
    if state.directory.is_dir() and not any(state.directory.iterdir()):
        state.directory.rmdir()
    home = folder(state.plan.name)
    for path in home.iterdir():
        if path.name not in {_STATE, _LOCK}:
            _remove(path)
    forget_empty(state.plan.name)


def forget_empty(name: str) -> None:
    """Remove the folder of a laboratory that made nothing, or that has nothing left but its record."""
    with _registry():
        for leftover in (_STATE, f"{_STATE[:-5]}.new", _LOCK):
            (folder(name) / leftover).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder(name).rmdir()


@contextlib.contextmanager
def locked(name: str, deadline: float) -> Iterator[int | None]:
    """Hold the laboratory's lock, waiting for it at most `deadline` seconds; yields its descriptor.

    Yields None if the laboratory vanished meanwhile; raises LabError if somebody else keeps the lock.
    """
    try:
        with _registry():  # so that the folder is not being removed meanwhile
            descriptor = os.open(folder(name) / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield None
        return
    try:
        _lock(descriptor, name, deadline)
        yield descriptor if os.fstat(descriptor).st_nlink else None
    finally:
        os.close(descriptor)


def _lock(descriptor: int, name: str, deadline: float) -> None:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    # flock(1) waits in the kernel with a deadline; the lock stays with the description that both share.
    argv = ["flock", "--exclusive", "--timeout", str(deadline), str(descriptor)]
    if subprocess.run(argv, pass_fds=(descriptor,), check=False).returncode != 0:
        message = f"laboratory {name} is being changed by another process"
        raise LabError(message, remedy="wait for that to end and try again")


@contextlib.contextmanager
def _registry() -> Iterator[None]:
    with (RUN_ROOT / _REGISTRY_LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _readable() -> Iterator[LabState]:
    """Yield what can be read; a record of another version must not keep others from building."""
    for name in names():
        with contextlib.suppress(LabError):
            if (state := read(name)) is not None:
                yield state


def _free_number(wanted: int | None) -> int:
    taken = {state.plan.number for state in _readable()}
    for number in range(MAX_NUMBER + 1) if wanted is None else (wanted,):
        # What nobody has recorded but the kernel has is somebody's all the same.
        if number in taken or namespaces_of_number(number) or links.has_controller_interface(number):
            continue
        return number
    if wanted is not None:
        message = f"the laboratory number {wanted} is in use"
        raise LabError(message, remedy="leave the number out and a free one is taken")
    message = f"all {MAX_NUMBER + 1} laboratory numbers are in use"
    raise LabError(message, remedy="godwit lab down for laboratories that nobody needs")


def _check_directory(path: Path) -> None:
    """Raise LabError unless a laboratory may have `path`: new, empty, or left by a laboratory that is no more."""
    if (path / MARKER).exists():
        in_use = [state.plan.name for state in _readable() if state.directory == path]
        if in_use:
            message = f"{path} belongs to laboratory {in_use[0]}"
            raise LabError(message, remedy="give each laboratory a directory of its own")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        message = f"{path} is not empty, and a laboratory removes its directory when it ends"
        raise LabError(message, remedy="name a directory that does not exist yet")


def _empty(path: Path) -> None:
    """Remove all in a data folder but its marker, which shows a second try that the folder is ours."""
    for leftover in path.iterdir():
        if leftover.name != MARKER:
            _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
