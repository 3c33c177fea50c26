"""Lets a test module run in virtual time: it says VIRTUAL_TIME = True."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from godwit.hosts.fakeclock import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytest.register_assert_rewrite("contract", "hostcontract", "snapshotcontract")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the event loop of a test; see pytest-asyncio."""
    module = item.getparent(pytest.Module)
    virtual = module is not None and getattr(module.obj, "VIRTUAL_TIME", False)
    return {"virtual": VirtualTimeLoop} if virtual else {"real": asyncio.new_event_loop}
