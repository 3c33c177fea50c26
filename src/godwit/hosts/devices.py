"""Devices that a plain host gives to guests: what `PlainHost` has of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.hosts import functions
from godwit.hosts.shell import run_script, words_of
from godwit.model import Launch
from godwit.network import tap as network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.transport import Transport
    from godwit.model import PciFunction, Tap


class GivesDevices:
    """The part of the port `Host` that gives devices away; `_transport` is the way to this host."""

    _transport: Transport

    async def plug_taps(self, taps: Sequence[Tap]) -> None:
        """Make taps and plug them into their bridges. Idempotent. Raises HostError naming bridge and mend."""
        arguments = network.plug_arguments(Launch((), taps=tuple(taps)))
        completed = await run_script(self._transport, network.PLUG, *arguments, check=False)
        if completed.status != 0:
            said = completed.stdout.decode(errors="replace") or words_of(completed)
            raise network.plug_error(self._transport.where, said)

    async def remove_taps(self, interfaces: Sequence[str]) -> None:
        """Remove taps; an interface of another kind is left alone. Idempotent."""
        await run_script(self._transport, network.UNPLUG, *interfaces)

    async def functions(self) -> tuple[PciFunction, ...]:
        """Return the host's PCI network functions, in one round trip."""
        return await functions.look(self._transport)

    async def take_function(self, address: str, vm: str, *, mac: str = "", vlan: int = 0) -> None:
        """Take a PCI function from the host for a guest; see the port."""
        await functions.take(self._transport, vm, address, mac=mac, vlan=vlan)

    async def give_back_functions(self, vm: str, address: str = "") -> tuple[str, ...]:
        """Give a function that a guest had, or all of them, back to the host's drivers; see the port."""
        return await functions.give_back(self._transport, vm, address)
