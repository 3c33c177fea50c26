"""A few planted defects are found soon: all of them are looked for by `script/soak mutants`."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, first_seed

SOON = 400
QUICK = (
    "the commit is journalled after `cont`",
    "no record is durable",
    "undo: the target is not destroyed",
    "undo: the source is not resumed",
    "undo: the send queue stays short",
    "a wish to cancel is not heard",
    "the stream goes on before its mirrors have ended",
    "done before its duties",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_defect_is_found(name: str) -> None:
    found = first_seed(name, iter(range(SOON)))
    assert found is not None


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 15
