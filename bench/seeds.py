"""The soak of the deterministic simulation: many seeds, and which seed finds which planted defect.

python -m bench.seeds --seeds 50000 [--from S] [--jobs 2] [--record FILE]   stories, each violation with its story
python -m bench.seeds --from S --seeds 1 --story                            one story in words
python -m bench.seeds mutants [--seeds 5000] [--jobs 2] [--record FILE]     the table: mutant, first seed that finds it
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "simulation"))

from mutants import MUTANTS, first_seed
from story import Plan, Verdict, plan_of, run, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 50
PROGRESS = 5000
INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell has it."""


def shrunk(plan: Plan) -> Plan:
    """Leave out what is not needed for a violation: faults, and guests that only stand by."""
    smaller = True
    while smaller:
        smaller = False
        for number in range(len(plan.faults)):
            fewer = replace(plan, faults=plan.faults[:number] + plan.faults[number + 1 :])
            if tell(fewer).violations:
                plan, smaller = fewer, True
                break
        for number in range(len(plan.moves) if len(plan.moves) > 1 else 0):
            fewer = replace(plan, moves=plan.moves[:number] + plan.moves[number + 1 :])
            if tell(fewer).violations:
                plan, smaller = fewer, True
                break
    return plan


def _stories(seeds: range) -> list[tuple[int, tuple[str, ...], tuple[tuple[str, str], ...], int]]:
    """Tell the stories of some seeds: seed, violations, outcomes, steps."""
    gc.disable()
    found = [(one.seed, one.violations, one.outcomes, one.steps) for one in map(run, seeds)]
    gc.collect()
    return found


def _leave_interrupts() -> None:
    """Let Ctrl-C end the soak, which then says how far it came, and not its processes one by one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def soak(first: int, count: int, jobs: int, record: Path | None) -> int:
    """Tell many stories and say how they ended, with Ctrl-C those that were told; returns an exit status."""
    began, outcomes, steps = time.monotonic(), Counter[str](), 0
    violated: list[tuple[int, tuple[str, ...]]] = []
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    done = 0
    with multiprocessing.Pool(jobs, _leave_interrupts) as pool, suppress(KeyboardInterrupt):
        for chunk in pool.imap_unordered(_stories, chunks):
            for seed, violations, ends, taken in chunk:
                done, steps = done + 1, steps + taken
                outcomes.update(status for _, status in ends)
                if violations:
                    violated.append((seed, violations))
                    print(f"seed {seed}: {'; '.join(violations)}", flush=True)
            if done % PROGRESS < len(chunk):
                print(f"{done} of {count}", flush=True)
    seconds = time.monotonic() - began
    ends_said = ", ".join(f"{status} {number}" for status, number in outcomes.most_common())
    lines = [
        f"{done} seeds from {first}, {steps} steps, {seconds:.0f} s on {jobs} processes",
        f"{done / seconds * 3600:.0f} seeds an hour",
        f"ends: {ends_said}",
        f"violations: {len(violated)}",
    ]
    for seed, violations in sorted(violated)[:20]:
        plan = shrunk(plan_of(seed))
        told = tell(plan)
        lines += ["", f"seed {seed}: {'; '.join(violations)}", f"with {len(plan.faults)} faults:", told.told()]
    _say("\n".join(lines), record)
    return int(bool(violated)) or (INTERRUPTED if done < count else 0)


def _finds(task: tuple[str, int, int]) -> tuple[str, tuple[int, str] | None]:
    name, first, count = task
    gc.disable()
    return name, first_seed(name, iter(range(first, first + count)))


def mutants(first: int, count: int, jobs: int, record: Path | None) -> int:
    """Plant each defect and say which seed finds it first, with Ctrl-C of those looked for; returns an exit status."""
    found: dict[str, tuple[int, str] | None] = {}
    with multiprocessing.Pool(jobs, _leave_interrupts, maxtasksperchild=1) as pool, suppress(KeyboardInterrupt):
        for name, one in pool.imap_unordered(_finds, [(name, first, count) for name in MUTANTS]):
            found[name] = one
            print(f"{name}: {one[0] if one else 'not found'}", flush=True)
    lines = ["| Planted defect | First seed | Found by |", "|---|---|---|"]
    for name in MUTANTS:
        seed, words = found.get(name, ("-", "not looked for")) or ("-", f"not within {count}")
        lines.append(f"| {name} | {seed} | {words} |")
    _say("\n".join(lines), record)
    return int(None in found.values()) or (INTERRUPTED if len(found) < len(MUTANTS) else 0)


def _say(text: str, record: Path | None) -> None:
    print(text)
    if record is not None:
        record.write_text(text + "\n")


def story(seed: int) -> int:
    """Tell one story in words; returns 1 where something was violated."""
    told: Verdict = tell(plan_of(seed), trace=True)
    print(told.told())
    print(json.dumps({"seed": seed, "violations": told.violations, "digest": told.digest, "steps": told.steps}))
    return int(bool(told.violations))


def _options(arguments: Iterator[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/soak seeds", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["seeds", "mutants"], default="seeds")
    parser.add_argument("--seeds", type=_count, default=5000, help="how many (5000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one (0)")
    parser.add_argument("--jobs", type=_count, default=2, help="processes at once (2)")
    parser.add_argument("--record", type=Path, help="a file that gets the result, too")
    parser.add_argument("--story", action="store_true", help="tell the first seed's story in words, step by step")
    return parser.parse_args(list(arguments))


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        message = f"{text} is no number of seeds or processes"
        raise argparse.ArgumentTypeError(message)
    return number


def main() -> int:
    """Do what the command line says; returns an exit status."""
    options = _options(iter(sys.argv[1:]))
    try:
        if options.story:
            return story(options.first)
        work = mutants if options.what == "mutants" else soak
        return work(options.first, options.seeds, options.jobs, options.record)
    except KeyboardInterrupt:  # a second time, while the first is still being answered
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
