"""Looks that go on side by side: a failed one does not leave the others to themselves."""

from __future__ import annotations

import asyncio

import pytest

from godwit.engine.gather import _all
from godwit.errors import HostError


async def test_every_look_has_ended_when_one_fails() -> None:
    taken_away = asyncio.Event()

    async def fails() -> None:
        message = "no port"
        raise HostError(message)

    async def plants_a_token() -> None:
        try:
            await asyncio.sleep(0.01)
        finally:
            await asyncio.sleep(0.01)
            taken_away.set()

    with pytest.raises(HostError, match="no port"):
        await _all(asyncio.create_task(fails()), asyncio.create_task(plants_a_token()))
    assert taken_away.is_set()


async def test_every_look_has_ended_when_it_is_cut_short() -> None:
    taken_away = asyncio.Event()

    async def plants_a_token() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            taken_away.set()

    looks = asyncio.create_task(_all(asyncio.create_task(plants_a_token())))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    looks.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looks
    assert taken_away.is_set()


async def test_nothing_to_look_at_is_no_trouble() -> None:
    await _all()
