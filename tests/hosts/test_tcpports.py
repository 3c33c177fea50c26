from __future__ import annotations

import random

import pytest

from godwit.errors import BusyError
from godwit.hosts import tcpports
from godwit.model import MIGRATION_PORTS

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12
   1: 0100007F:C000 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:C001 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


def test_ports_in_use_are_read_from_both_tables() -> None:
    assert tcpports.parse_used(TABLE) == {22, 0xC000, 0xC001}


def test_a_free_port_is_never_one_in_use() -> None:
    used = set(MIGRATION_PORTS) - {49200}
    assert tcpports.choose(used, random.Random(1)) == 49200  # noqa: S311  # no secret, only a seed


def test_above_a_free_port_there_are_others_to_go_on_to() -> None:
    used = frozenset({49152, 49153})
    chosen = {tcpports.choose(used, random.Random(seed)) for seed in range(500)}  # noqa: S311  # no secret, only a seed
    assert chosen == set(range(49154, 49154 + 31))


def test_a_full_range_is_an_error() -> None:
    with pytest.raises(BusyError, match="49152 to 49215"):
        tcpports.choose(set(MIGRATION_PORTS), random.Random(1))  # noqa: S311  # no secret, only a seed
