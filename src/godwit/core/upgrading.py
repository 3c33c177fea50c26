"""A guest whose QEMU is replaced on its own host: where the two processes meet, and what is set on the old one. Pure.

It is a migration like any other, with the same journal and the same law, in one of two ways: the new process takes the
memory as it stands, or the memory is copied through a socket of this host. Which one it is stands in the stream's URI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import CAPABILITIES, Negotiated
from godwit.model import Side

if TYPE_CHECKING:
    from godwit.model import Features, Spec, Vm

STREAM: Final = ".stream"
"""What follows the new process's control socket in the name of the socket through which memory is copied."""

TAKER: Final = ".take"
"""The same for the socket at which the new process waits for memory as it stands."""

_IN_PLACE: Final = "in-place:"
_COPY: Final = "unix:"
_NEEDED: Final = frozenset({"events", "return-path"})


def names(spec: Spec, side: Side, vm: Vm) -> Vm:
    """Return the guest as it is called on one side: `vm`, unless two of its processes share a host."""
    if spec.upgrade is None:
        return vm
    before, after = spec.upgrade.before, spec.upgrade.after
    return before if side is Side.SOURCE else after


def in_place_uri(after: Vm) -> str:
    """Return the URI of a stream that hands memory over as it stands."""
    return f"{_IN_PLACE}{taker_path(after)}"


def taker_path(after: Vm) -> str:
    """Return the socket at which the new process waits for memory as it stands."""
    return f"{after.control}{TAKER}"


def copy_uri(after: Vm) -> str:
    """Return the URI of a stream that copies memory on one host."""
    return f"{_COPY}{after.control}{STREAM}"


def path_in_place(uri: str) -> str | None:
    """Return where memory is handed over as it stands; None for any other stream."""
    return uri.removeprefix(_IN_PLACE) if uri.startswith(_IN_PLACE) else None


def negotiated_in_place(source: Features) -> Negotiated:
    """Return what is set on the old process: what drives a switchover, and nothing that changes how memory travels."""
    chosen = {row.name: row.name in _NEEDED for row in CAPABILITIES if row.name in source.capabilities}
    lacking = tuple(f"{name}: unknown to the source" for name in sorted(_NEEDED - source.capabilities))
    return Negotiated(chosen, {}, (), lacking)
