"""The commands that the console has itself, and what it says of them. Pure.

Help texts are those of hmp-commands.hx: of QEMU 5.2 for what later versions dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from godwit.console.arguments import SPACE


@dataclass(frozen=True, slots=True)
class Command:
    """One command: how QEMU's own tables describe it.

    `arguments` are types in QEMU's notation (see `console.arguments`), `parameters` and `help` are what `help` prints.
    """

    name: str
    arguments: str
    parameters: str
    help: str

    @property
    def line(self) -> str:
        """What `help` prints of it."""
        return f"{self.name} {self.parameters} -- {self.help}\n"


MIGRATE: Final = Command(
    "migrate",
    "detach:-d,blk:-b,inc:-i,resume:-r,uri:s",
    "[-d] [-b] [-i] [-r] uri",
    "migrate to URI (using -d to not wait for completion)"
    "\n\t\t\t -b for migration without shared storage with full copy of disk"
    "\n\t\t\t -i for migration without shared storage with incremental copy of disk "
    "(base image shared between src and destination)"
    "\n\t\t\t -r to resume a paused migration",
)
SET_SPEED: Final = Command(
    "migrate_set_speed",
    "value:o",
    "value",
    "set maximum speed (in bytes) for migrations. Defaults to MB if no size suffix is specified, ie. B/K/M/G/T",
)
SET_DOWNTIME: Final = Command(
    "migrate_set_downtime", "value:T", "value", "set maximum tolerated downtime (in seconds) for migrations"
)
OWN: Final = {command.name: command for command in (MIGRATE, SET_SPEED, SET_DOWNTIME)}

CANCEL: Final = "migrate_cancel"
INFO: Final = "info"
QUIT: Final = frozenset({"quit", "q"})
QUIT_FOR_SURE: Final = frozenset({"quit!", "q!"})
CONTINUE: Final = frozenset({"cont", "c"})
HELP: Final = frozenset({"help", "?"})
READ_ONLY: Final = HELP | {"info", "print", "p", "x", "xp"}
"""What may be typed at a guest that Godwit moves: it tells something, and changes nothing."""

DISKS_FLAG: Final = "[-b]"
"""Stands in QEMU's own help of `migrate` where that QEMU still copies disks."""

LONGEST: Final = 4095
"""Characters that QEMU's monitor takes in one line (READLINE_CMD_BUF_SIZE)."""

LARGEST_DOWNTIME: Final = 2000
"""Seconds; QEMU takes no more."""

NO_DISKS_NOTE: Final = "\t\t\t (-b and -i: this QEMU has dropped them; this console copies the disks over NBD)\n"

NOTE: Final = "godwit-receiving"
"""An object in the target's QEMU whose `identity` says how much has come: it is there while disks are received."""

JOBS: Final = "info block-jobs"
_JOB: Final = re.compile(
    r"^Type mirror, device (?P<job>godwit-disk\d+): Completed (?P<done>\d+) of (?P<all>\d+)", re.MULTILINE
)
_BANDWIDTH: Final = re.compile(r"^max-bandwidth: (\d+) bytes/second", re.MULTILINE)
_RECEIVED: Final = re.compile(r'^"(\d+)"')

_UNKNOWN: Final = "unknown command: '"
_REFUSALS: Final = (_UNKNOWN, "Error: ", 'Try "help ')
_ENTRY: Final = re.compile(r"^(?P<names>[A-Za-z?][\w?|+-]*) .*$", re.MULTILINE)
_DISK: Final = re.compile(r"^(transferred|remaining|total) disk: (\d+)", re.MULTILINE)


def unknown(name: str) -> str:
    """Return QEMU's words for a command that there is none of."""
    return f"{_UNKNOWN}{name}'\n"


def is_unknown(text: str) -> bool:
    """Say whether QEMU's answer to `help NAME` means that it has no such command; old versions print nothing."""
    return not text.strip(SPACE) or text.startswith(_UNKNOWN)


def is_refusal(text: str) -> bool:
    """Say whether QEMU's answer to a line means that it was not done: HMP has no other sign than its words."""
    return any(line.startswith(_REFUSALS) for line in text.splitlines())


def untypeable(line: str) -> str | None:
    """Return what is wrong with a line that no keyboard makes; None for one that can be passed on."""
    if any(letter != "\t" and not letter.isprintable() for letter in line):
        word = line.strip(SPACE).split(" ")[0][:40]
        return unknown(word.encode("unicode_escape", "backslashreplace").decode("ascii"))
    if len(line) > LONGEST:
        return f"Error: the line has {len(line)} characters, and the monitor takes {LONGEST}\n"
    return None


def whole_help(qemus: str) -> str:
    """Return QEMU's own list of commands with ours in their places; what QEMU has still keeps its entry."""
    text = qemus
    for command in OWN.values():
        entries = list(_ENTRY.finditer(text))
        here = next((entry for entry in entries if entry["names"] == command.name), None)
        if here is None:
            place = next((entry.start() for entry in entries if entry["names"] > command.name), len(text))
            text = text[:place] + command.line + text[place:]
        elif command is MIGRATE and DISKS_FLAG not in here[0]:
            after = next((entry.start() for entry in entries if entry.start() > here.start()), len(text))
            text = text[: here.start()] + migrate_help() + text[after:]
    return text


def migrate_help() -> str:
    """Return the old help of `migrate`, for a QEMU that lost -b and -i."""
    return MIGRATE.line + NO_DISKS_NOTE


def names_in(text: str, after: str = "") -> list[str]:
    """Return the names in a list that `help` printed; `after` is a word before each ("info")."""
    prefix = f"{after} " if after else ""
    lines = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
    return [name for line in lines if (entry := _ENTRY.match(line)) for name in entry["names"].split("|") if name]


def disk_percent(info: str) -> int | None:
    """Return how much of the disks `info migrate` says to be copied; None where it does not speak of disks."""
    figures = {match[1]: int(match[2]) for match in _DISK.finditer(info)}
    if not figures.get("total"):
        return None
    return 100 if not figures.get("remaining") else 100 * figures.get("transferred", 0) // figures["total"]


def job_name(number: int) -> str:
    """Return what the job is called that copies a disk; a node's name made of it must stay under 32 characters."""
    return f"godwit-disk{number}"


def copying(jobs: str) -> dict[str, tuple[int, int]]:
    """Return the jobs of ours in an answer to `info block-jobs`: for each, the bytes done and those known of."""
    return {match["job"]: (int(match["done"]), int(match["all"])) for match in _JOB.finditer(jobs)}


def bandwidth_in(parameters: str) -> int:
    """Return max-bandwidth in an answer to `info migrate_parameters`, in bytes a second; 0 is unlimited."""
    match = _BANDWIDTH.search(parameters)
    return int(match[1]) if match else 0


def received(identity: str) -> int | None:
    """Return the percentage that the note at a target holds; None where there is no such note."""
    match = _RECEIVED.match(identity)
    return int(match[1]) if match else None


def disk_lines(done: int, total: int) -> str:
    """Return the lines with which `info migrate` told of disks (hmp_info_migrate in QEMU 7.2)."""
    figures = (("transferred", done), ("remaining", total - done), ("total", total))
    return "".join(f"{word} disk: {size >> 10} kbytes\n" for word, size in figures)


def ram_lines(total: int) -> str:
    """Return what `info migrate` says of memory before any of it was sent."""
    return f"transferred ram: 0 kbytes\nremaining ram: {total >> 10} kbytes\ntotal ram: {total >> 10} kbytes\n"
