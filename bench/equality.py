"""Whether a disk that travels loses a write: a guest that writes and syncs without a pause, moved again and again.

`python -m bench.equality --moves 20` moves a guest with its disk to and fro. A program in it appends numbered records
with a check sum to a file, and says each number only when it is on the disk. After each move every record that was
said must be there, read from the disk anew, and both disks must have been the same at the switchover
(`--verify-disks`), on the odd moves as whole copies, on the even ones filled up.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from bench.ground import Users, Witness, keep, laboratory, login, parser, run
from godwit import app
from godwit.api.client import Godwit
from godwit.bench.machines import inside
from godwit.errors import GodwitError
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, prefix, register
from godwit.lab.plan import LabPlan
from godwit.model import DiskMode, Policy

if TYPE_CHECKING:
    from godwit.lab.laboratory import Laboratory
    from godwit.model import Vm
    from godwit.service import Service

NAME: Final = "benchequality"
_WRITER: Final = (
    "n=0; while :; do n=$((n + 1)); echo $n $((n * 40503 % 65521)) >> /data/records; "
    "fsync /data/records 2>/dev/null || sync; echo $n; done"
)
_READ: Final = (
    "sync; echo 3 > /proc/sys/vm/drop_caches; "
    'awk \'$1 != NR || $2 != NR * 40503 % 65521 { print "wrong", NR; exit } END { print "records", NR }\' /data/records'
)


@dataclass(frozen=True, slots=True)
class Checked:
    """One move: how it was copied, the records that had been said before it was over, those that are on the disk."""

    way: str
    status: str
    said: int
    found: int
    lost: int
    equal: bool | None
    disk_bytes: int

    @property
    def whole(self) -> bool:
        """Whether nothing is missing and both disks were the same."""
        return self.status == "completed" and self.lost == 0 and bool(self.equal)


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, and whether the guest's users noticed anything."""

    moves: tuple[Checked, ...]
    witness: Witness


class Writer:
    """The program in the guest; `said` is the last number that it has said."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.said = 0

    async def run(self, lab: Laboratory, vm: Vm) -> None:
        """Read what it says until it is ended."""
        session = await asyncio.create_subprocess_exec(
            *login(lab, vm), _WRITER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert session.stdout is not None  # noqa: S101 - it is a pipe; for the type checker
        try:
            async for line in session.stdout:
                self.said = int(line)
        finally:
            session.kill()
            await session.wait()


async def measure(moves: int, rate: int) -> Result:
    """Build a laboratory whose hosts share nothing, move while the guest writes, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    plan = LabPlan(NAME, link_rate=rate, shared_storage=False)
    async with laboratory(plan, assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        vm = await add_guest(service, lab, assets, GuestPlan())
        writer = Writer()
        async with Users(lab, vm.address or "") as users:
            writing = asyncio.create_task(writer.run(lab, vm))
            while not writer.said:  # noqa: ASYNC110 - the session says when it has begun
                await asyncio.sleep(0.2)
            made = []
            for number in range(moves):
                made.append(await move(service, lab, vm, writer, number))
                print(json.dumps(asdict(made[-1])), flush=True)
            writing.cancel()
            await asyncio.wait([writing])
            return Result(tuple(made), await users.witness())


async def move(service: Service, lab: Laboratory, vm: Vm, writer: Writer, number: int) -> Checked:
    """Move once and see what is on the disk."""
    there = "host2" if number % 2 == 0 else "host1"
    whole = number % 4 in {0, 3}  # each host gets both: a whole copy, and one that is filled up
    if whole:
        inside(lab, there, ["sh", "-c", f"rm -f /mnt/images/{vm.name}.qcow2 /mnt/images/.godwit-*.left"])
    policy = Policy(disks=DiskMode.AUTO, verify_disks=True)
    try:
        outcome = await Godwit(service).migrate(vm.name, prefix(lab.name) + there, policy=policy)
    except GodwitError as error:
        return Checked("whole" if whole else "filled up", error.message, writer.said, 0, 0, None, 0)
    said = writer.said
    done = await asyncio.to_thread(subprocess.run, [*login(lab, vm), _READ], capture_output=True, text=True, check=True)
    word, _, count = done.stdout.strip().partition(" ")
    found = int(count) if word == "records" else int(count) - 1
    equal = outcome.comparison.equal if outcome.comparison else None
    return Checked(
        way="whole" if whole else "filled up",
        status=outcome.status.value,
        said=said,
        found=found,
        lost=max(0, said - found),
        equal=equal,
        disk_bytes=outcome.disk_bytes,
    )


def table(moves: tuple[Checked, ...]) -> str:
    """Print what came of each way."""
    rows = ["| copied | moves | disks equal | records said | lost |", "|---|---|---|---|---|"]
    for way in ("whole", "filled up"):
        these = [one for one in moves if one.way == way]
        equal = sum(bool(one.equal) for one in these)
        lost = sum(one.lost for one in these)
        rows.append(f"| {way} | {len(these)} | {equal} | {max((one.said for one in these), default=0)} | {lost} |")
    return "\n".join(rows)


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--moves", type=int, default=20, help="moves, there and back in turns")
    options = arguments.parse_args()
    result = run(lambda: measure(options.moves, options.rate))
    keep(result, options.json)
    print(table(result.moves))
    survived = "survived" if result.witness.ssh_session_survived else "BROKE"
    print(f"\nThe SSH session {survived}; {len(result.witness.tick_faults)} faults in {result.witness.ticks} ticks.")
    return 0 if result.witness.unharmed and all(one.whole for one in result.moves) else 1


if __name__ == "__main__":
    sys.exit(main())
