"""Stories with faults: a fixed range of seeds, those that once found a defect, and that each is always the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kept import Kept, kept
from mutants import MUTANTS
from story import plan_of, run, tell

SEEDS = range(100)
HERE = Path(__file__).parent


@pytest.mark.parametrize("first", SEEDS[::20])
def test_nothing_is_violated(first: int) -> None:
    for seed in range(first, first + 20):
        verdict = run(seed)
        assert not verdict.violations, verdict.told()


@pytest.mark.parametrize("story", kept(), ids=lambda story: f"{story.plan.seed}: {story.found}")
def test_what_once_found_a_defect_finds_none(story: Kept) -> None:
    verdict = tell(story.plan)
    assert not verdict.violations, verdict.told()


@pytest.mark.parametrize(
    "story", [story for story in kept() if story.mutant], ids=lambda story: f"{story.plan.seed}: {story.found}"
)
def test_it_would_find_it_again(story: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[story.mutant](monkeypatch)
    assert tell(story.plan).violations


def test_a_seed_tells_the_same_story_whatever_hashes_are() -> None:
    """In another process, with other hashes and another memory, and after other stories."""
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); from story import run; print([run(n).digest for n in (7, 9)])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str([run(7).digest, run(9).digest])


def test_the_stories_differ() -> None:
    """Faults strike, all kinds of moves are made, and most of them end well even so."""
    verdicts = [run(seed) for seed in range(60)]
    kinds = {move.kind for seed in range(200) for move in plan_of(seed).moves}
    assert len(kinds) >= 8
    assert len({verdict.digest for verdict in verdicts}) == len(verdicts)
    ends = [status for verdict in verdicts for _, status in verdict.outcomes]
    assert {"completed", "failed", "cancelled"} <= set(ends)
    assert sum("FAULT" in verdict.told() for verdict in verdicts) >= 30
