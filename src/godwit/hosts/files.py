"""What a plain host does with images that no QEMU has open, and with the memory of a process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, HypervisorError
from godwit.hosts.shell import number_in, run_script
from godwit.plaintext import from_json
from godwit.qemu.reply import as_object, text
from godwit.qemu.snapshots import entries
from godwit.storage import files, images
from godwit.storage.sharedproof import check_path

if TYPE_CHECKING:
    from godwit.core.snapshots import DiskSnapshots
    from godwit.hosts.transport import Transport

SNAPSHOT_DEADLINE: Final = 600.0
"""Seconds that removing a snapshot from an image may take."""


class LooksIntoFiles:
    """The part of a plain host that looks into images of guests that are off; see `godwit.ports.Host`."""

    _transport: Transport

    async def image_snapshots(self, disk: DiskSnapshots) -> DiskSnapshots:
        """Return the disk of a guest that is off with its format and the snapshots in its image."""
        completed = await run_script(self._transport, images.INFO, check_path(disk.path), disk.format)
        word, _, rest = completed.stdout.decode(errors="replace").partition("\n")
        if word != "image":
            images.parse_info(f"{word}\n{rest}", disk.path, self._transport.where)  # raises what that means
        try:
            said = as_object(from_json(rest), "qemu-img info")
        except ValueError:
            message = f"qemu-img on {self._transport.where} says of {disk.path} what cannot be read"
            raise HypervisorError(message) from None
        return replace(disk, format=text(said, "format"), snapshots=tuple(entries(said)))

    async def delete_image_snapshot(self, path: str, tag: str) -> None:
        """Remove a snapshot from an image that no QEMU has open. Raises HypervisorError."""
        completed = await run_script(
            self._transport, images.DELETE_SNAPSHOT, check_path(path), tag, deadline=SNAPSHOT_DEADLINE
        )
        said = completed.stdout.decode(errors="replace").strip()
        if said == "missing":
            message = f"{self._transport.where} has no qemu-img, which looks after images of guests that are off"
            raise HostError(message, remedy="install it there: the package qemu-utils, or the like")
        if said != "deleted":
            message = f"qemu-img on {self._transport.where} cannot remove {tag} from {path}: {said.partition(' ')[2]}"
            raise HypervisorError(message, remedy="see whether another process has the image open")

    async def resident(self, pid: int) -> int:
        """Return how many bytes of memory a process has resident."""
        completed = await run_script(self._transport, files.RESIDENT, str(pid))
        return number_in(completed.stdout.strip() or b"0", f"the memory of process {pid} on {self._transport.where}")
