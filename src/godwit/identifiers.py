"""What migrations are called. A room of its own, so that a command line has the name before it loads anything else."""

from __future__ import annotations

import secrets


def new_identifier(vm: str) -> str:
    """Return the name of a new migration of the guest `vm`: unique, and readable."""
    return f"{vm}-{secrets.token_hex(4)}"
