"""What several tests of the command line share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cliterminal import terminals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cliterminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Open terminals in which the command runs over a simulated stage."""
    with terminals(tmp_path) as opened:
        yield opened
