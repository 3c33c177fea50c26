"""What migrations, saves and restores are called.

A room of its own, so that a command line has the name before it loads anything else.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def is_name(text: str) -> bool:
    """Say whether a guest or a host can be called so."""
    return _NAME.fullmatch(text) is not None and ".." not in text


def names_a_file(text: str) -> bool:
    """Say whether a guest, a migration or a job can be called so: then it is also the name of a file, and no path."""
    return _FILE.fullmatch(text) is not None and ".." not in text


def new_identifier(vm: str) -> str:
    """Return the name of a new migration of the guest `vm`: unique, and readable."""
    return f"{vm}-{secrets.token_hex(4)}"


_JOB = {"save": "s", "restore": "r"}


def new_job_identifier(vm: str, work: str) -> str:
    """Return the name of a new save or restore of the guest `vm`: no migration is called so."""
    return f"{vm}-{_JOB[work]}{secrets.token_hex(4)}"


def is_job(identifier: str) -> bool:
    """Say whether an identifier is that of a save or a restore: the letter before its number is none of a number's."""
    return identifier.rpartition("-")[2][:1] in _JOB.values()
