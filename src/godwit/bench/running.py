"""All trials of a comparison, interleaved, in rounds: each is kept as soon as it has ended, and none is made twice."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from godwit import app
from godwit.bench.contestants import By
from godwit.bench.guests import booted
from godwit.bench.libvirthosts import start_daemons, start_guest
from godwit.bench.trials import Ground, Trial, attempt
from godwit.bench.typed import typed
from godwit.errors import InputError, LabError
from godwit.lab.assets import Tree, cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, place_image, prefix, register
from godwit.lab.laboratory import Laboratory
from godwit.lab.plan import LabPlan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from godwit.bench.contestants import Contestant
    from godwit.bench.scenarios import Scenario

LAB: Final = "compare"
_TRIAL: Final = TypeAdapter(Trial)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be compared, how often, and the file that keeps the trials."""

    scenarios: tuple[Scenario, ...]
    contestants: tuple[Contestant, ...]
    rounds: int
    kept: Path

    def missing(self, made: Sequence[Trial]) -> list[tuple[int, Scenario, Contestant]]:
        """Return the trials that are still to be made, in the order in which that is to be done."""
        known = {(trial.scenario, trial.contestant, trial.round) for trial in made}
        return [
            (number, scenario, contestant)
            for scenario in self.scenarios
            for number in range(self.rounds)
            for contestant in self.order(number)
            if (scenario.name, contestant.name, number) not in known
        ]

    def order(self, number: int) -> list[Contestant]:
        """Return the order of a round: each begins with another, so that nobody is always the first."""
        turn = number % len(self.contestants)
        return [*self.contestants[turn:], *self.contestants[:turn]]


def read(path: Path) -> list[Trial]:
    """Return the trials that a file keeps; none where there is no file. Raises InputError for another kind of file."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(_TRIAL.validate_json(line))
        except ValidationError as error:
            message = f"{path}: line {number} is no trial: {error.errors()[0]['msg']}"
            raise InputError(message, remedy="name another file, or remove the line") from None
    return found


async def compare(plan: Plan, say: Callable[[str], None]) -> list[Trial]:
    """Make the trials that are missing, and return all. Raises LabError, InputError."""
    made = read(plan.kept)
    todo = plan.missing(made)
    if made:
        say(f"{len(made)} trials are there already, {len(todo)} are to be made")
    for memory, reports in sorted({_guest(scenario) for _, scenario, _ in todo}):
        part = [one for one in todo if _guest(one[1]) == (memory, reports)]
        async with ground_for(part, memory, reports=reports) as ground:
            for place, (number, scenario, contestant) in enumerate(part, 1):
                trial = await attempt(ground, scenario, contestant, number)
                with plan.kept.open("a") as file:
                    file.write(json.dumps(asdict(trial)) + "\n")
                made.append(trial)
                say(f"{place}/{len(part)} {words_of(trial)}")
    return made


def _guest(scenario: Scenario) -> tuple[int, bool]:
    """Return what a scenario's guest is made with: its memory in bytes, and whether its balloon tells what is free."""
    return scenario.memory, not scenario.once


def words_of(trial: Trial) -> str:
    """Say in a line what a trial came to."""
    how = f", {trial.strategy}" if trial.strategy else ""
    if trial.refused:
        return f"{trial.scenario}: {trial.contestant}{how}: refused ({trial.note})"
    if not trial.ended:
        return f"{trial.scenario}: {trial.contestant}{how}: does not end ({trial.note})"
    gap = "" if trial.client_gap is None else f", {trial.client_gap * 1000:.0f} ms of silence"
    lost = "" if trial.lost is None else f", {trial.lost:.1f} s behind"
    sent = trial.link_bytes / 1e6
    return f"{trial.scenario}: {trial.contestant}{how}: {trial.took:.1f} s, {sent:.0f} MB{gap}{lost}"


@asynccontextmanager
async def ground_for(
    trials: Sequence[tuple[int, Scenario, Contestant]], memory: int, *, reports: bool
) -> AsyncIterator[Ground]:
    """Build a laboratory with the guests that these trials need, and take it down."""
    libvirt = any(contestant.by is By.VIRSH for _, _, contestant in trials)
    trees: tuple[Any, ...] = (Tree.LIBVIRT,) if libvirt else ()
    assets = await asyncio.to_thread(prepare, cache_folder(), print, *trees)
    Laboratory.remove(LAB)
    lab = Laboratory.up(LabPlan(LAB), assets.trees[Tree.LIBVIRT] if libvirt else assets.hosttree)
    try:
        async with app.opened() as service:
            await register(service, lab)
            theirs = None
            if libvirt:
                await start_daemons(lab)
                plan = GuestPlan("libvirt1", number=1, memory=memory, reports=reports)
                theirs = start_guest(lab, await place_image(lab, assets, plan), plan)
                await booted(lab, theirs.address)
            ours = await add_guest(service, lab, assets, GuestPlan("godwit1", memory=memory, reports=reports))
            if ours.address is None:
                message = f"{ours.name} has no address"
                raise LabError(message)
            await booted(lab, ours.address)
            # What a host's QEMU can do is found out once, which takes seconds where KVM hangs.
            await typed("check", ours.name, prefix(LAB) + "host2")
            yield Ground(service, lab, ours.name, theirs)
    finally:
        lab.down()
