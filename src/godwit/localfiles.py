"""Files of the controller's own machine: what people hand over is read with a bound, what Godwit keeps is its own.

Journal, logs and locks hold command lines of guests and say who may do what: nobody else reads or writes them, and no
link that somebody else left leads their writer elsewhere.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError, JournalError
from godwit.identifiers import names_a_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LONGEST_TEXT: Final = 1 << 20
"""Bytes of a definition or a policy that are read."""

_OWN_FOLDER: Final = 0o700
_OWN_FILE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def read_text(path: Path, what: str) -> str:
    """Return the text of a file that somebody named; `what` says what it should be.

    Raises FileNotFoundError, and InputError where it cannot be read, is no text, or is larger than LONGEST_TEXT.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST_TEXT + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"cannot read {path}: {reason}"
        raise InputError(message) from None
    if len(data) > LONGEST_TEXT:
        message = f"{path} is too large for {what}: more than {LONGEST_TEXT} bytes"
        raise InputError(message, remedy="see whether it is the file that was meant")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{path} is no text: byte {error.start} is no UTF-8"
        raise InputError(message) from None


def own_home(path: Path) -> None:
    """See that the folder of the journal is there and nobody else can write to it; one that is made is 0700.

    Raises JournalError with the mend.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=_OWN_FOLDER)
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"cannot make the folder of the journal {path}: {reason}"
        raise JournalError(message, remedy="choose another with GODWIT_HOME=FOLDER") from error
    if mode & _OTHERS_WRITE:
        message = f"others can write to {path}, the folder of the journal (mode {stat.S_IMODE(mode):04o})"
        remedy = f"chmod go-w {path}, or choose another with GODWIT_HOME=FOLDER"
        raise JournalError(message, remedy=remedy)


def open_own(path: Path, flags: int) -> int:
    """Open a file of Godwit's own, made 0600 in a folder made 0700, and return its descriptor.

    A link in its place is not followed. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=_OWN_FOLDER)
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _OWN_FILE)
    found = os.fstat(descriptor)
    if found.st_mode & _OTHERS and found.st_uid == os.geteuid():  # an earlier Godwit made it
        os.fchmod(descriptor, _OWN_FILE)
    return descriptor


def write_new(folder: Path, texts: Mapping[str, str]) -> None:
    """Write texts by name into a folder, all or none: files of mode 0600 in a folder of mode 0700, made if need be.

    Raises InputError for a folder that is not its owner's alone, and where one of the files is there already.
    """
    place = _own_place(folder)
    written: list[str] = []
    try:
        for name, text in texts.items():
            with _named(folder / name):
                _write_in(place, name, text, written)
    except BaseException:
        for name in written:
            with suppress(OSError):
                os.unlink(name, dir_fd=place)
        raise
    finally:
        os.close(place)


def _own_place(folder: Path) -> int:
    """Open a folder, made if need be, that is its owner's alone. Raises InputError."""
    with _named(folder):
        folder.mkdir(mode=_OWN_FOLDER, exist_ok=True)
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    found = os.fstat(place)
    if found.st_mode & _OTHERS or found.st_uid != os.geteuid():
        os.close(place)
        message = f"{folder} is not its owner's alone (mode {stat.S_IMODE(found.st_mode):04o})"
        raise InputError(message, remedy=f"chmod 700 {folder}, or name a folder that is not there yet")
    return place


def _write_in(place: int, name: str, text: str, written: list[str]) -> None:
    """Write one file that is not there yet; `written` takes its name. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(name, flags, _OWN_FILE, dir_fd=place)
    written.append(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise an InputError that names the path in place of an OSError."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise InputError(message, remedy="name a folder that is not there yet") from error


def own_path(folder: Path, name: str, suffix: str) -> Path:
    """Return the file in `folder` that belongs to a guest or a migration. Raises InputError for what is no name."""
    if not names_a_file(name):
        message = f"{name!r} is the name of no guest and of no migration"
        raise InputError(message)
    return folder / f"{name}{suffix}"
