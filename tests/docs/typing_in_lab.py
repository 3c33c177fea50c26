"""Types the examples of a page in a laboratory of its own, under other names than the default laboratory's.

A person may have the default laboratory open, so nothing here touches it: hosts and guests get the name of our own
laboratory before theirs, and the guest's address becomes the one it really has.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from godwit.lab.laboratory import Laboratory

GODWIT: Final = str(Path(sys.executable).with_name("godwit"))
GUEST_ADDRESS: Final = "198.18.0.100"
"""The first guest's address in the laboratory with the number 0, as the pages show it."""

_OURS: Final = re.compile(r"^(host\d+|client|web1)$")
_NAMED: Final = frozenset({"up", "down", "status"})


@dataclass(frozen=True, slots=True)
class Session:
    """One laboratory and one folder, in which commands are typed."""

    laboratory: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command: a journal of our own, and lines of a fixed width."""
        return {**os.environ, "GODWIT_HOME": str(self.home / "godwit"), "COLUMNS": "120"}

    @property
    def address(self) -> str:
        """The guest's address, as the pages show it while there is no laboratory."""
        if self.laboratory not in Laboratory.names():
            return GUEST_ADDRESS
        return Laboratory.load(self.laboratory).plan.guest_address(0)

    def words(self, typed: list[str]) -> list[str]:
        """Return what to run for a command as a page shows it."""
        typed = [self._here(word) for word in typed]
        if typed[0] != "godwit":
            return typed
        if typed[1] != "lab":
            return [GODWIT, *(self._named(word) for word in typed[1:])]
        name = [self.laboratory] if typed[2] in _NAMED else ["--name", self.laboratory]
        return [GODWIT, *typed[1:3], *name, *typed[3:]]

    def _here(self, word: str) -> str:
        word = word.replace(GUEST_ADDRESS, self.address)
        return word.replace("/run/godwit/lab/lab/", f"/run/godwit/lab/{self.laboratory}/")

    def _named(self, word: str) -> str:
        return "@".join(f"{self.laboratory}-{part}" if _OURS.match(part) else part for part in word.split("@"))

    def as_shown(self, printed: str, address: str) -> str:
        """Return what was printed under the default laboratory's names."""
        shown = re.sub(rf"\b{re.escape(self.laboratory)}-(?=host|client|web1)", "", printed)
        return shown.replace(f"laboratory {self.laboratory}", "laboratory lab").replace(address, GUEST_ADDRESS)

    def type(self, typed: list[str]) -> str:
        """Run one command and return what it printed, errors among it. Raises AssertionError when it failed."""
        done = subprocess.run(
            self.words(typed),
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{typed}: {done.stdout}"
        return done.stdout

    def end(self) -> None:
        """Take the laboratory down, whatever state it is in."""
        Laboratory.remove(self.laboratory)
