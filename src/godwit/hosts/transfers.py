"""Whole files and comparisons between plain hosts: what `PlainHost` has of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.hosts.credentials import private_of
from godwit.hosts.shell import number_in, run_script
from godwit.storage import files, transfer
from godwit.storage.sharedproof import check_path, check_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.errors import GodwitError
    from godwit.hosts.transport import Transport
    from godwit.model import Pair

_GRACE = 30.0
"""Seconds beyond a script's own limit after which its host counts as hanging."""


class Transfers:
    """The part of the port `Host` that moves files; `_transport` is the way to this host."""

    _transport: Transport

    async def take_file(
        self, path: str, owner: str, address: str, port: int, size: int, *, pair: Pair | None = None
    ) -> None:
        """Let one sender fill the file `path`, of `size` bytes, at `address`:`port`; see the port. Raises HostError."""
        life = str(transfer.life_of(size, 0))
        arguments = (check_token(owner), check_path(path), address, str(port), life, pair.identity if pair else "")
        private = private_of(pair.server) if pair else None
        await self._script(transfer.TAKE, *arguments, doing=f"taking {path}", private=private)

    async def send_file(
        self, path: str, owner: str, url: str, *, size: int, speed: int, pair: Pair | None = None
    ) -> None:
        """Send a file to where another host takes it; returns when all of it is there. Raises HostError."""
        life = transfer.life_of(size, speed)
        limit = ("-r", str(speed)) if speed else ()
        there = transfer.encrypted(url) if pair else url
        arguments = (check_token(owner), check_path(path), there, str(life), *limit)
        private = private_of(pair.client) if pair else None
        await self._script(transfer.SEND, *arguments, doing=f"sending {path}", deadline=life + _GRACE, private=private)

    async def end_transfer(self, owner: str) -> None:
        """End whatever sends or takes under that name on this host. Idempotent. Raises HostError."""
        await self._script(transfer.END, check_token(owner), doing=f"ending the transfer {owner}", silent=True)

    async def fit_file(self, path: str, size: int) -> None:
        """Cut a file that was taken to its size, and see it on its disk."""
        await run_script(self._transport, transfer.FIT, check_path(path), str(size), deadline=60.0)

    async def used(self, path: str) -> int:
        """Return the bytes that a file takes on its file system; 0 where there is none."""
        completed = await run_script(self._transport, files.USED, check_path(path))
        return number_in(completed.stdout, f"the room that {path} takes on {self._transport.where}")

    async def compare_image(self, path: str, image_format: str, url: str, *, size: int, credentials: str = "") -> str:
        """Compare an image with what is served at `url`, content by content.

        Returns what differs, in qemu-img's words with the first differing offset, empty where nothing does.
        Raises HostError where they could not be compared.
        """
        life = transfer.life_of(size, 0)
        whose = check_token(credentials) if credentials else ""
        there = transfer.encrypted(url) if credentials else url
        arguments = ("compare", check_path(path), image_format, there, str(life), whose)
        said = await self._script(
            transfer.COMPARE, *arguments, doing=f"comparing {path} with its copy", deadline=life + _GRACE
        )
        return said.partition(" ")[2].strip()

    async def served_head(self, url: str) -> str:
        """Return the size of what is served at an address, and a digest of its first bytes. Raises HostError."""
        said = await self._script(transfer.HEAD, url, doing=f"opening {url}")
        return said.partition(" ")[2].strip()

    async def _script(
        self,
        text: str,
        *arguments: str,
        doing: str,
        deadline: float = 30.0,
        silent: bool = False,
        private: Mapping[str, str] | None = None,
    ) -> str:
        """Run a script; what it says to have failed at is raised. One that may be `silent` says nothing when it did."""
        completed = await run_script(self._transport, text, *arguments, deadline=deadline, private=private)
        said = completed.stdout.decode(errors="replace").strip()
        error: GodwitError | None = transfer.trouble(said, f"{doing} on {self._transport.where}")
        if error is not None and (said or not silent):
            raise error
        return said
