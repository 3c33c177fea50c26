"""The fault matrix over real QEMU: a phase, a fault, and where the guest must be afterwards; see docs/reliability.md.

`python -m bench.matrix` carries out each cell of tests/lab/faultcells.py in each of three rounds, in four
laboratories side by side: three whose hosts share their storage, one whose hosts share nothing. Each cell is a line in
a file; a run that was ended goes on where it was. `--figures` measures how soon a guest gets memory again after a
link's return. `--page` writes the results into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from faultcells import CELLS, RETURNS, Cell, Mode
from faultmatrix import Field
from labtools import Ground
from matrixpage import RESULTS, ROOT, ROUNDS, latest, read, write_page

from bench.ground import INTERRUPTED, laboratory
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.plan import LabPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

STORIES: Final = ROOT / "build" / "matrix"
"""Where the whole stories of cells go that were not as they must be."""

FIGURES: Final = 20
"""How often what is measured is measured."""

_SIDES: Final = {
    "shared": (Mode.PRECOPY,),
    "over": (Mode.POSTCOPY,),
    "still": (Mode.STATIC,),
    "apart": (Mode.MIRROR,),
}
"""The modes that each laboratory is for: a guest that goes over is another one, and hosts may share nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be carried out, and where each result goes."""

    cells: Sequence[tuple[int, Cell]]
    results: Path


def wanted(options: argparse.Namespace, side: str) -> Wanted:
    """Return the cells that are still to be carried out: those without a result, and those whose last one was bad."""
    if options.figures:
        cells = [] if side != "over" else [(number + 1, RETURNS) for number in range(FIGURES)]
    else:
        these = [
            cell for mode in _SIDES[side] for cell in CELLS if cell.mode is mode and re.search(options.only, cell.id)
        ]
        cells = [(number + 1, cell) for number in range(options.rounds) for cell in these]
    good = {key for key, line in latest(read(options.results)).items() if not line["wrong"]}
    return Wanted([(number, cell) for number, cell in cells if (number, cell.id) not in good], options.results)


async def carry_out(work: Wanted, side: str) -> bool:
    """Build a laboratory and carry all cells out in it; say whether all was as it must be."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    good = True
    plan = LabPlan(f"matrix{side}", link_rate=None, shared_storage=side != "apart")
    async with laboratory(plan, assets.hosttree) as lab:
        home = Path(tempfile.mkdtemp(prefix="godwit-matrix-"))
        with Field.on(Ground(lab, assets, home)) as field:
            await field.ground.introduce()
            for number, cell in work.cells:
                good &= await _one(field, number, cell, work.results)
    return good


async def _one(field: Field, number: int, cell: Cell, results: Path) -> bool:
    verdict = await field.carry_out(cell)
    line = {"round": number, "cell": cell.id, "end": cell.end.value, "at": round(time.time()), **asdict(verdict)}
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line).replace(str(field.ground.home), "GODWIT_HOME") + "\n")
    said = f"{verdict.status}, {verdict.owner}; silent for {verdict.silence} s"
    print(f"{'BAD ' if verdict.wrong else 'good'} {number} {verdict.seconds:5.1f} s  {cell.id}: {said}", flush=True)
    if verdict.wrong:
        print("\n".join(f"     {words}" for words in verdict.wrong), flush=True)
        kept = STORIES / f"{number}-{re.sub('[^a-z0-9]+', '-', cell.id.lower())}.txt"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(field.ground.story(), encoding="utf-8")
        print(f"     the whole story: {kept}", flush=True)
    return not verdict.wrong


async def side_by_side(arguments: Sequence[str]) -> bool:
    """Let one process each work on a laboratory: what one of them waits for does not delay the other."""
    command = [sys.executable, "-m", "bench.matrix", *arguments, "--side"]
    children = [await asyncio.create_subprocess_exec(*command, side, cwd=ROOT) for side in _SIDES]
    try:
        return not any([await child.wait() for child in children])
    except asyncio.CancelledError:
        for child in children:
            if child.returncode is None:
                child.send_signal(signal.SIGINT)
        await asyncio.gather(*(child.wait() for child in children))
        raise


def main() -> int:
    """Parse, carry out, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS, help=f"how often each cell ({ROUNDS})")
    parser.add_argument("--only", default="", metavar="REGEX", help='cells whose name fits, as in "precopy .*: runner"')
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of results, which is gone on with")
    parser.add_argument("--figures", action="store_true", help="cut the link of a guest in postcopy, 20 times")
    parser.add_argument(
        "--page", action="store_true", help="write the results into docs/reliability.md, and nothing else"
    )
    parser.add_argument("--side", choices=list(_SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.page:
        write_page(options.results)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.side is None:
            return 0 if asyncio.run(side_by_side(sys.argv[1:])) else 1
        work = wanted(options, options.side)
        return 0 if not work.cells or asyncio.run(carry_out(work, options.side)) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
