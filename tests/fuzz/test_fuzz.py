"""Whatever comes from outside, Godwit ends with an error of its own: no traceback, no hang, no growth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fuzz_targets import TARGETS
from hypothesis import HealthCheck, given, settings

if TYPE_CHECKING:
    from fuzz_targets import Target

EXAMPLES = 60
"""Inputs for each in the plain tests; `script/soak fuzz` takes more, other ones each time."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_but_an_error_of_ours(target: Target) -> None:
    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def attempt(value: Any) -> None:  # noqa: ANN401 - whatever the strategy makes
        target.attempt(value)

    attempt()
