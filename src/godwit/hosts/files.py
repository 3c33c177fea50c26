"""What a plain host does with files: giving them to other hosts, and looking into images that no QEMU has open."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, HypervisorError
from godwit.hosts.shell import run_script
from godwit.model import MIGRATION_PORTS
from godwit.qemu.reply import as_object, text
from godwit.qemu.snapshots import entries
from godwit.storage import files, images
from godwit.storage.sharedproof import check_path, check_token

if TYPE_CHECKING:
    from godwit.core.snapshots import DiskSnapshots
    from godwit.hosts.transport import Transport
    from godwit.ports import ServedFile

FETCH_DEADLINE: Final = 7 * 24 * 3600.0
"""Seconds that fetching a file may take: whoever asked for it sees how far it is, and can end it."""

SNAPSHOT_DEADLINE: Final = 600.0
"""Seconds that removing a snapshot from an image may take."""


class GivesFiles:
    """The part of a plain host that concerns whole files; see `godwit.ports.Host`."""

    _transport: Transport

    async def image_snapshots(self, disk: DiskSnapshots) -> DiskSnapshots:
        """Return the disk of a guest that is off with its format and the snapshots in its image."""
        completed = await run_script(self._transport, images.INFO, check_path(disk.path), disk.format)
        word, _, rest = completed.stdout.decode(errors="replace").partition("\n")
        if word != "image":
            images.parse_info(f"{word}\n{rest}", disk.path, self._transport.where)  # raises what that means
        try:
            said = as_object(json.loads(rest), "qemu-img info")
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

    async def serve_file(self, path: str, lease: str, address: str) -> ServedFile:
        """Give a file away to one other host, at `address` and one of the ports that are kept for migrations."""
        where = self._transport.where
        ports = (str(MIGRATION_PORTS[0]), str(MIGRATION_PORTS[-1]))
        arguments = (check_path(path), check_token(lease), address, *ports, str(files.LEASE))
        completed = await run_script(self._transport, files.SERVE, *arguments)
        return files.parse_serving(completed.stdout.decode(errors="replace"), where, path, address, lease)

    async def renew_lease(self, lease: str) -> None:
        """Let what is served under `lease` be served for another while. Idempotent."""
        await run_script(self._transport, files.RENEW, check_token(lease))

    async def stop_serving_file(self, lease: str) -> None:
        """Serve it no longer. Idempotent."""
        await run_script(self._transport, files.STOP_SERVING, check_token(lease))

    async def fetch_file(self, served: ServedFile, path: str, owner: str) -> None:
        """Make a copy at `path` of what another host serves, marked as `owner`'s."""
        arguments = (check_path(path), check_token(owner), str(served.size), served.uri)
        completed = await run_script(self._transport, files.FETCH, *arguments, deadline=FETCH_DEADLINE)
        error = files.fetching_error(self._transport.where, path, completed.stdout.decode(errors="replace"))
        if error is not None:
            raise error

    async def resident(self, pid: int) -> int:
        """Return how many bytes of memory a process has resident."""
        completed = await run_script(self._transport, files.RESIDENT, str(pid))
        return int(completed.stdout.decode().strip() or 0)
