"""The folder `tls` in Godwit's home: readable by its owner alone, each file written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import TlsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Store:
    """Texts by name in a private folder. Every call raises TlsError where the file system does not do it."""

    folder: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder where there is none, and be the only one who changes it."""
        try:
            self.folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._private(self.folder)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise _trouble(self.folder, "cannot be used", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self, name: str) -> str | None:
        """Return a text, None where there is none. Raises TlsError for one that others can read or change, too."""
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _trouble(self.folder, f"cannot be read ({name})", error) from error
        with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
            found = os.fstat(descriptor)
            if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
                message = f"{path} is not readable by its owner alone: whoever else read it may pose as a host"
                raise TlsError(message, remedy=f"chmod 600 {path}; if others had it, godwit tls rotate")
            return file.read()

    def holds(self, name: str) -> bool:
        """Say whether there is such a text. Raises TlsError for one that somebody else has, or may have, put there."""
        path = self.folder / name
        try:
            found = path.lstat()
            self._private(self.folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _trouble(self.folder, f"cannot be read ({name})", error) from error
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            message = f"{path} may be somebody else's: it is no file that its owner alone can write"
            raise TlsError(message, remedy=f"find out who has put it there, and remove it: rm {path}")
        return True

    def write(self, name: str, text: str) -> None:
        """Put a text in place of whatever was there."""
        path = self.folder / name
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            new.replace(path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise _trouble(self.folder, f"cannot be written ({name})", error) from error

    def remove(self, name: str) -> None:
        """Remove a text. Idempotent."""
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise _trouble(self.folder, f"keeps {name}", error) from error

    def remove_folder(self, name: str) -> None:
        """Remove a folder of this one with the texts in it. Idempotent; a link is removed, and not followed."""
        folder = self.folder / name
        try:
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            raise _trouble(self.folder, f"keeps {name}", error) from error

    def _private(self, folder: Path) -> None:
        found = folder.stat()
        if found.st_uid != os.geteuid():
            message = f"{folder} belongs to another user: whoever owns it could pose as any host"
            raise TlsError(message, remedy=f"run godwit as its owner, or move {folder} away")
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(FOLDER_MODE)


def _trouble(folder: Path, what: str, error: OSError) -> TlsError:
    message = f"{folder} {what}: {error.strerror or error}"
    return TlsError(message, remedy=f"see the rights and the room of {folder}")
