"""The machine against a world: whatever happens, in whatever order, the law holds and the walk ends."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from walking import HARMLESS, tapes, walk, walk_from_limbo

from godwit.core.state import Phase
from godwit.model import Owner, RunState, Side, Way

SILENCES = (None, Side.SOURCE, Side.TARGET)
SILENT = st.sampled_from([None, None, None, Side.SOURCE, Side.TARGET])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    tape=st.binary(max_size=160),
    length=st.integers(0, 100),
    silent=SILENT,
    copying=st.booleans(),
    way=st.sampled_from(Way),
    direct=st.booleans(),
)
def test_every_walk_keeps_the_law_and_ends(
    tape: bytes, length: int, silent: Side | None, *, copying: bool, way: Way, direct: bool
) -> None:
    made = walk(tape, length, silent, copying=copying, way=way, direct=direct)

    assert made.state.finished or made.state.phase is Phase.LIMBO


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(1, 3))])
def test_many_more_walks_keep_the_law(seed: int, way: Way) -> None:
    """Hypothesis finds the short stories; the long ones take numbers."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    reached = {
        walk(tape, length, silent, copying=number % 2 == 1, way=way, direct=number % 3 == 0).state.phase
        for number, (tape, length, silent) in enumerate(tapes(chance, 700))
    }

    assert reached == {Phase.DONE, Phase.FAILED, Phase.CANCELLED, Phase.LIMBO}


MORE = (*((way, 11) for way in Way if way is not Way.LIVE), (Way.LIVE, 14), (Way.STATIC, 21))


@pytest.mark.parametrize(
    ("way", "seed"), [(Way.LIVE, 11), *(pytest.param(*one, marks=pytest.mark.exhaustive) for one in MORE)]
)
def test_a_person_leads_out_of_limbo_and_the_law_holds(way: Way, seed: int) -> None:
    """Whoever decides has looked at both hosts, and may be wrong about what is gone.

    Only a host that stays silent keeps a word from coming true: the guest may stand still there, or hold its disks.
    """
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    made = [
        one
        for number, (tape, length, _) in enumerate(tapes(chance, 2000))
        if (one := walk(tape, length, chance.choice(SILENCES), copying=number % 2 == 1, way=way, person=True)).words
    ]
    left = [one for one in made if one.state.phase is Phase.LIMBO]
    owners = {one.state.owner for one in made if one.state.finished}

    assert len(made) > 10
    assert len(left) < len(made) / 2
    assert all(one.silent is not None for one in left)
    assert owners == {Owner.SOURCE, Owner.TARGET}


def test_whatever_two_hosts_show_a_person_s_word_keeps_the_law() -> None:
    chance = random.Random(5)  # noqa: S311 - not for secrets
    made = [walk_from_limbo([chance.randrange(1000) for _ in range(60)]) for _ in range(3000)]
    decided = [one for one in made if one.words]
    reached = {(one.state.phase, one.state.owner) for one in decided}

    assert len(decided) > 1500
    assert sum(one.state.phase is Phase.LIMBO for one in decided) < len(decided) / 10
    assert reached >= {(Phase.DONE, Owner.TARGET), (Phase.FAILED, Owner.SOURCE), (Phase.FAILED, Owner.TARGET)}


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("copying", [False, True])
def test_a_walk_without_faults_moves_the_guest(way: Way, *, copying: bool, direct: bool) -> None:
    made = walk(b"", copying=copying, way=way, direct=direct)

    assert made.state.phase is Phase.DONE
    assert made.state.owner is Owner.TARGET
    assert made.world.target.state is RunState.RUNNING
    assert made.world.source.state is RunState.ABSENT
    assert not made.state.held
    assert not made.state.leftovers
    assert made.world.images == ("kept" if copying else "none")
    assert not direct or way is Way.OFF or made.world.device is Side.TARGET


@pytest.mark.parametrize("way", Way)
def test_what_does_no_harm_never_ends_in_limbo(way: Way) -> None:
    """A killed runner, a cancel, a moment's loss of a monitor: the move is finished or undone."""
    chance = random.Random(7)  # noqa: S311 - not for secrets
    harmless = [
        made
        for number, (tape, length, _) in enumerate(tapes(chance, 1000))
        if set((made := walk(tape, length, copying=number % 2 == 1, way=way, direct=number % 3 == 0)).faults)
        <= HARMLESS
        and made.faults
    ]

    assert len(harmless) > 60
    assert all(made.state.finished for made in harmless)
