"""Godwit moves running QEMU/KVM guests between hosts without stopping them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from godwit.api.client import Godwit, connect
    from godwit.model import Outcome, Policy, Way

__version__ = "0.1.0"
__all__ = ["Godwit", "Outcome", "Policy", "Way", "__version__", "connect"]


def __getattr__(name: str) -> object:
    """Load the public names on first use, so that a command that needs few of them starts fast."""
    if name in {"Godwit", "connect"}:
        from godwit.api import client  # noqa: PLC0415 - loaded on demand

        return getattr(client, name)
    if name in {"Outcome", "Policy", "Way"}:
        from godwit import model  # noqa: PLC0415 - loaded on demand

        return getattr(model, name)
    message = f"module 'godwit' has no attribute {name!r}"
    raise AttributeError(message)
