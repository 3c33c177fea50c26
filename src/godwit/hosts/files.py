"""What a plain host does with images that no QEMU has open, and with the memory of a process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, HypervisorError
from godwit.hosts.shell import number_in, run_script
from godwit.plaintext import from_json, shortened
from godwit.qemu.reply import as_object, text
from godwit.qemu.snapshots import entries
from godwit.storage import files, images
from godwit.storage.sharedproof import check_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.snapshots import DiskSnapshots
    from godwit.hosts.transport import Transport

SNAPSHOT_DEADLINE: Final = 600.0
"""Seconds that removing a snapshot from an image may take."""

_SHOWN: Final = 200


_OPEN: Final = r"""
# Neither cut off nor made, and not a byte is written: it is only opened, by which a file keeps its times. A dd that
# cannot leave it at that (busybox's) leaves it to the shell, which would make a file that is gone by then; and the
# kernel lets nobody open what could be made so, and is another's, in a folder like /tmp.
can=$(dd if=/dev/null of=/dev/null conv=notrunc,nocreat status=none 2>&1) && [ -z "$can" ] && can=yes || can=
to_write() {
    if [ -n "$can" ]; then dd if=/dev/null of="$1" conv=notrunc,nocreat status=none; else : >> "$1"; fi
}
while [ "$#" -ge 2 ]; do
    path=$1 mode=$2 said=
    shift 2
    if [ ! -e "$path" ]; then :
    elif [ ! -f "$path" ]; then  # whoever closes a device that was open for writing has it looked at anew by udev
        { [ -r "$path" ] && { [ "$mode" = r ] || [ -w "$path" ]; }; } || said="Permission denied"
    else
        said=$({ : < "$path"; } 2>&1) || said=${said:-Permission denied}
        [ -n "$said" ] || [ "$mode" = r ] || said=$(to_write "$path" 2>&1) || said=${said:-Permission denied}
    fi
    printf '%s\n' "$said" | tr '\n' ' '
    echo
done
"""
"""$1 is a file and $2 r or rw, and so on; prints a line for each: why it cannot be opened so, empty where it can."""


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

    async def forbidden(self, files: Sequence[tuple[str, bool]]) -> tuple[str, ...]:
        """Say of each file why it cannot be opened; see the port."""
        arguments = [word for path, writing in files for word in (check_path(path), "rw" if writing else "r")]
        completed = await run_script(self._transport, _OPEN, *arguments)
        lines = [*completed.stdout.decode(errors="replace").splitlines(), *("" for _ in files)]
        return tuple(shortened(line.strip().rpartition(": ")[2], _SHOWN) for line in lines[: len(files)])

    async def resident(self, pid: int) -> int:
        """Return how many bytes of memory a process has resident."""
        completed = await run_script(self._transport, files.RESIDENT, str(pid))
        return number_in(completed.stdout.strip() or b"0", f"the memory of process {pid} on {self._transport.where}")
