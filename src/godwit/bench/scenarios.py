"""What is moved: a guest's memory, what it writes and how, and the link. Data; see docs/compare-moves.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from godwit.units import MIB


@dataclass(frozen=True, slots=True)
class Writes:
    """What a guest writes: `rate` MiB of pages a second, over and over to `hot_set` MiB, `each` bytes of a page.

    `pattern` is what: "random", or "third", of which a third is random and the rest one value, as in memory that
    compresses well.
    """

    hot_set: int
    rate: int
    each: int = 4096
    pattern: str = "random"

    program = "memwriter"

    @property
    def line(self) -> str:
        """The command in the guest."""
        options = f"--rate {self.rate}M --set {self.hot_set}M --bytes-per-page {self.each} --pattern {self.pattern}"
        return f"memwriter {options}"


@dataclass(frozen=True, slots=True)
class Works:
    """What a guest does for its users: `line` is a command in it that tells how far it has come as memwriter does.

    `program` is what is to be ended for it to end.
    """

    line: str
    program: str


_TELL: Final = "memwriter t=0 rate=0 pages=0 total="
_REDIS: Final = (
    "redis-benchmark -q -l -t set -r 8000 -d 4096 -c 8 >/dev/null & while sleep 1; do "
    f"echo {_TELL}$(redis-cli info stats | sed -n 's/^total_commands_processed://p' | tr -d '\\r'); done"
)
_ROWS: Final = 60_000
_CHANGE: Final = f"UPDATE t SET v = randomblob(400) WHERE id = (SELECT abs(random()) % {_ROWS});"  # noqa: S608 - ours
_SQLITE: Final = (
    "rm -f /run/db*; sqlite3 /run/db 'PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);"  # noqa: S608 - ours
    f"INSERT INTO t SELECT value, randomblob(400) FROM generate_series(0, {_ROWS - 1})'; n=0; "
    f'while n=$((n + 400)); do for each in $(seq 20); do echo "BEGIN; {_CHANGE * 20} COMMIT;"; done; '
    f'echo ".system echo {_TELL}$n"; done | sqlite3 /run/db'
)
"""Each transaction changes 20 rows of 60 000; after twenty sqlite3 lets a shell tell of them, for it would keep what it
prints itself until there is more of it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A guest of `memory` bytes behind a link of `link` Mbit/s.

    It writes as `first` says; `changes` is when, in seconds after its move began, and how it goes on then. `once` is
    how many MiB of its memory it has used and freed before its move; its balloon does not tell which.
    """

    name: str
    words: str
    link: int = 400
    memory: int = 256 * MIB
    first: Writes | Works | None = None
    changes: tuple[float, Writes] | None = None
    once: int = 0


_ALL: Final = (
    Scenario("quiet", "a guest that does nothing"),
    Scenario("sparse", "8 bytes in each page of 64 MiB, 160 MiB/s of pages", first=Writes(64, 160, 8)),
    Scenario("denser", "512 bytes in each page of 48 MiB, 100 MiB/s of pages", first=Writes(48, 100, 512)),
    Scenario("whole", "whole pages of 48 MiB, 60 MiB/s, nothing that could be compressed", first=Writes(48, 60)),
    Scenario("torrent", "whole pages of 96 MiB as fast as it can", first=Writes(96, 2000)),
    Scenario("third", "whole pages of 64 MiB that compress to a third, 80 MiB/s", first=Writes(64, 80, 4096, "third")),
    Scenario(
        "jump",
        "a guest that writes ten times as fast from its second pass on",
        first=Writes(48, 8, 64),
        changes=(4.0, Writes(48, 80, 64)),
    ),
    Scenario("thin", "memory that compresses to a third, behind 100 Mbit/s", 100, first=Writes(128, 1, 4096, "third")),
    Scenario("thin-random", "memory that does not compress, behind 100 Mbit/s", 100, first=Writes(128, 1)),
    Scenario("redis", "redis, set 4 KiB values of 32 MiB as fast as it can", first=Works(_REDIS, "redis-benchmark")),
    Scenario("database", "SQLite, changing rows of 30 MiB as fast as it can", first=Works(_SQLITE, "sqlite3")),
    Scenario("once", "512 MiB, of which four fifths were used once and are free", memory=512 * MIB, once=340),
)

SCENARIOS: Final = {scenario.name: scenario for scenario in _ALL}
SHORT: Final = ("quiet", "sparse", "whole", "third")
