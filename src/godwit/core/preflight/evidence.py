"""What preflight looks at: facts of both sides, gathered beforehand, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.model import Packets

if TYPE_CHECKING:
    from godwit.model import (
        Balloon,
        CertificateFacts,
        GuestFacts,
        GuestView,
        HostFacts,
        ImageFacts,
        OlderCopy,
        PciFunction,
        PlaceFacts,
        Policy,
        Stamp,
        Trial,
        Vm,
    )


@dataclass(frozen=True, slots=True)
class DiskProof:
    """Whether one disk is the same file on both sides.

    `token_seen` says that a token written beside the file on the source was read on the target (None: it could not be
    written, `error` says why); the identities are size and inode, empty where the file is absent. `backs` names the
    disk that this one is a backing file of. Of a disk that may have to be copied, `image` describes it and `place`
    where it would go; None where `error` says why that is not known. `digests` are those of a backing file or a
    medium that both sides have and do not share; `compared_whole` says whether all of it was read for them.
    `older` is what an earlier move of guest `vm` left in its place on the target, `stamps` what the running disk has
    recorded since its handovers. `forbidden` is why a QEMU on the target could not open it as the guest has it open.
    """

    name: str
    path: str
    read_only: bool
    token_seen: bool | None
    source_identity: str
    target_identity: str
    error: str = ""
    backs: str = ""
    image: ImageFacts | None = None
    place: PlaceFacts | None = None
    digests: tuple[str, str] | None = None
    vm: str = ""
    older: OlderCopy | None = None
    stamps: tuple[Stamp, ...] = ()
    compared_whole: bool = False
    firmware: bool = False
    forbidden: str = ""

    @property
    def same(self) -> bool:
        """Whether both sides have the same file, or two of the same content."""
        return bool(self.token_seen) or (self.digests is not None and self.digests[0] == self.digests[1])


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the checks decide on. `reachable` is whether the source reaches the target's migration address.

    `returns` is whether the target reaches the source's, `packets` how large packets may be on the way there and on the
    way back, `ports_left` whether the target has a port left for a stream. `trial` is what became of a connection that
    was tried, None where none was.

    `monitor_shared` says that the target sees the very folder in which the guest's monitor lies. `hindrances` keep a
    new QEMU on the same host from taking the guest's memory as it stands. `balloon` is the guest's, where it may take
    memory, `resident` the bytes that the guest's QEMU has of the host's. `encrypted` says that what is
    sent is to be encrypted, by what `authority` has certified (None before its first use); `now` is our own clock.
    `matches` are functions of the target that stand for those that the guest has of the source, by device.
    """

    vm: Vm
    policy: Policy
    guest: GuestFacts
    source: HostFacts
    target: HostFacts
    on_target: GuestView
    disks: tuple[DiskProof, ...]
    reachable: bool
    monitor_shared: bool = False
    hindrances: tuple[str, ...] = ()
    balloon: Balloon | None = None
    resident: int = 0
    encrypted: bool = False
    authority: CertificateFacts | None = None
    now: float = 0.0
    returns: bool = True
    packets: tuple[Packets, Packets] = (Packets(), Packets())
    ports_left: bool = True
    trial: Trial | None = None
    matches: tuple[tuple[str, PciFunction], ...] = ()
