"""Hostile inputs in the hundred thousands: each reader of what comes from outside, over inputs of its own.

A reader may end with an error of Godwit's. A traceback, an input that takes longer than DEADLINE, and memory that grows
with the number of inputs are defects: the first input of each kind is shown, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import gc
import resource
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

_TESTS: Final = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(_TESTS / "fuzz"), str(_TESTS / "qemu")]

from fuzz_targets import TARGETS  # noqa: E402 - the tests are no package

from godwit.errors import GodwitError  # noqa: E402

if TYPE_CHECKING:
    from fuzz_targets import Target

INPUTS: Final = 150_000
_SHOWN: Final = 600
_ROUND: Final = 1000
"""Inputs of one round of hypothesis, which plans no more than that well."""

_SAMPLE: Final = 300
"""Inputs that are read again, three times over: what is kept from the second to the third time is growth."""

_GROWTH: Final = 100
"""Objects that may be left of them: the garbage collector has a list or two of its own."""


@dataclass(slots=True)
class Record:
    """What became of the inputs of one reader."""

    inputs: int = 0
    refused: collections.Counter[str] = field(default_factory=collections.Counter)
    defects: dict[str, str] = field(default_factory=dict)
    slowest: float = 0.0
    growth: int = 0


def attempt(target: Target, value: Any, record: Record) -> None:  # noqa: ANN401 - whatever the strategy makes
    """Let a reader have one input, and note what became of it."""
    begun = time.perf_counter()
    record.inputs += 1
    try:
        target.attempt(value)
    except Exception as error:  # noqa: BLE001 - finding them is what this is for
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/godwit/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the reader itself"
        kind = f"{type(error).__name__} in {where}: {error}"[:_SHOWN]
        key = f"{type(error).__name__} in {where}"
        record.defects.setdefault(key, f"{kind}\n    {ascii(value)[:_SHOWN]}")
    record.slowest = max(record.slowest, time.perf_counter() - begun)


def run(target: Target, inputs: int, seed: int) -> Record:
    """Give a reader that many inputs, in rounds."""
    record = Record()
    sample: list[Any] = []
    for number in range(-(-inputs // _ROUND)):

        @seeded(seed + number)
        @settings(
            max_examples=min(_ROUND, inputs),
            database=None,
            phases=[Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(target.inputs)
        def one(value: Any) -> None:  # noqa: ANN401 - as above
            attempt(target, value, record)
            if len(sample) < _SAMPLE:
                sample.append(value)

        one()
    kept: list[int] = []
    for _ in range(3):
        for value in sample:
            attempt(target, value, record)
        gc.collect()
        kept.append(len(gc.get_objects()))
    record.growth = kept[2] - kept[1]
    return record


def main() -> int:
    """Run all readers, or those whose names hold a word; print a table."""
    parser = argparse.ArgumentParser(prog="script/soak fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="in all, over all readers")
    parser.add_argument("--only", default="", help="readers whose names hold this")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same inputs as another time")
    asked = parser.parse_args()
    chosen = [target for target in TARGETS if asked.only in target.name]
    if not chosen:
        parser.error(f"no reader's name holds {asked.only!r}: {', '.join(one.name for one in TARGETS)}")
    begun, total, bad = time.monotonic(), 0, 0
    print(f"seed {asked.seed}\n{'reader':20} {'inputs':>8} {'slowest':>9} {'kept':>6}  defects")
    for target in chosen:
        record = run(target, -(-asked.inputs // len(chosen)), asked.seed)
        total += record.inputs
        grows = record.growth > _GROWTH
        bad += len(record.defects) + grows
        print(
            f"{target.name:20} {record.inputs:8} {record.slowest:8.3f}s {record.growth:6}"
            f"  {len(record.defects)}{' GROWS' if grows else ''}",
            flush=True,
        )
        for defect in record.defects.values():
            print(f"  {defect}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{total} inputs in {time.monotonic() - begun:.0f} s, {bad} defects; {peak} MiB resident at most")
    return 1 if bad else 0


__all__ = ["GodwitError", "main"]

if __name__ == "__main__":
    sys.exit(main())
