"""What persons decided, and what was proven of hosts, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import FenceProof, Word


class MemoryDecisions:
    """See `godwit.ports.Decisions`."""

    def __init__(self, written: Callable[[], None]) -> None:
        """Begin with nothing; `written` is told of each change."""
        self._words: dict[str, Word] = {}
        self._proofs: dict[str, FenceProof] = {}
        self._written = written

    async def put_word(self, identifier: str, word: Word) -> None:
        """Keep a person's word."""
        self._words[identifier] = word
        self._written()

    async def take_word(self, identifier: str) -> Word | None:
        """Return the word and forget it."""
        return self._words.pop(identifier, None)

    async def put_proof(self, proof: FenceProof) -> None:
        """Keep that a host was proven to be off."""
        self._proofs[proof.host] = proof
        self._written()

    async def proof(self, host: str) -> FenceProof | None:
        """Return what was proven of a host last."""
        return self._proofs.get(host)

    async def drop_proof(self, host: str) -> None:
        """Forget what was proven of a host. Idempotent."""
        self._proofs.pop(host, None)
