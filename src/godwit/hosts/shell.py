"""Small POSIX shell scripts, run on a host in one round trip each.

A script is constant text: what varies reaches it as positional parameters, never as part of the text. It needs a POSIX
shell, coreutils and grep; some need iproute2.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final, Protocol

from godwit.errors import HostError, RemoteCommandError
from godwit.plaintext import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from godwit.ports import Completed

SCRIPT_DEADLINE: Final = 10.0

_PRELUDE: Final = """\
set -u
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH
runtime() {
    for folder in /run/godwit "${XDG_RUNTIME_DIR:-/nonexistent}/godwit" "${HOME:-/nonexistent}/.cache/godwit"; do
        if mkdir -p -m 700 -- "$folder" 2>/dev/null && [ -w "$folder" ]; then
            echo "$folder"
            return 0
        fi
    done
    return 1
}
"""
"""Daemons' tools are on the path for every user; `runtime` prints a folder of Godwit's own that ends with the boot, or,
where the user may not make one, at least a private one."""


class Runs(Protocol):
    """What a script needs of a way to a host; every transport has it."""

    @property
    def where(self) -> str:
        """How messages call the host."""
        ...

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = SCRIPT_DEADLINE) -> Completed:
        """Run a command to its end, `deadline` seconds at most."""
        ...


async def run_script(
    transport: Runs,
    text: str,
    *arguments: str,
    private: Mapping[str, str] | None = None,
    deadline: float = SCRIPT_DEADLINE,
    check: bool = True,
) -> Completed:
    """Run the script `text` with `arguments` as $1, $2 and so on.

    What is `private` reaches it as shell variables, by the standard input alone: no list of processes shows it, and no
    command that the script runs inherits it. Raises RemoteCommandError with the script's own words on a status other
    than 0 if `check`.
    """
    variables = "".join(f"{name}={shlex.quote(value)}\n" for name, value in (private or {}).items())
    script = (_PRELUDE + variables + text).encode()
    completed = await transport.run(["sh", "-s", "--", *arguments], stdin=script, deadline=deadline)
    if check and completed.status != 0:
        message = f"a command on {transport.where} failed with status {completed.status}: {words_of(completed)}"
        raise RemoteCommandError(message)
    return completed


def number_in(said: bytes, what: str) -> int:
    """Return the whole number that a command printed; `what` says which. Raises HostError for anything else."""
    text = said.decode(errors="replace").strip()
    if text.isascii() and text.isdecimal() and len(text) <= _DIGITS:
        return int(text)
    message = f"what should be {what} is {shortened(text, _SHOWN)!r}"
    raise HostError(message)


def words_of(completed: Completed) -> str:
    """Return the error output of a command for a message, the end of it where it is long."""
    lines = completed.stderr.decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-_LAST_LINES:]) or "it said nothing"


_LAST_LINES: Final = 12
_DIGITS: Final = 20
_SHOWN: Final = 80
