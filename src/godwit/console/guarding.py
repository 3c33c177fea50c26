"""Who takes over a migration with disks when the console that carried it is killed.

The stream of such a migration waits before the switchover, with the guest stopped, for a word that only the console
says. So a second process holds the end of a pipe: it hears that the console is gone, whatever killed it, and then
either takes everything back, or, where the source had been told to go on, sees it through.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from godwit.console.diskcopy import hand_over, sever, take_back
from godwit.console.sides import Place
from godwit.errors import GodwitError, MigrationFailedError, MonitorBusyError
from godwit.model import DiskCopy, ImageFacts

if TYPE_CHECKING:
    from godwit.ports import Guest, Host
    from godwit.service import Service

ENDED: Final = "ended"
HANDS_OVER: Final = "hands-over"
HANDS_OVER_STOPPED: Final = "hands-over-stopped"
"""The same, of a guest that is to stand still at the target."""

PATIENCE: Final = 20.0
"""Seconds within which a monitor must be free that the console held."""

_RETRY: Final = 0.2


@dataclass(frozen=True, slots=True)
class Orders:
    """What a guard must know; as JSON on one line."""

    source: Place
    target: Place
    jobs: tuple[str, ...]
    before: dict[str, bool]
    disks: str

    def line(self) -> str:
        """Return it as a line of JSON."""
        document = {
            "source": self.source.document(),
            "target": self.target.document(),
            "jobs": self.jobs,
            "before": self.before,
            "disks": self.disks,
        }
        return json.dumps(document) + "\n"

    @classmethod
    def of(cls, line: str) -> Self:
        """Read a line of JSON."""
        document: dict[str, Any] = json.loads(line)
        places = Place.of(document["source"]), Place.of(document["target"])
        return cls(*places, tuple(document["jobs"]), document["before"], document["disks"])


async def take_over(service: Service, orders: Orders, last_word: str) -> list[str]:
    """Do what the console did not do; `last_word` is the last that was heard of it. Returns what went wrong."""
    if last_word == ENDED:
        return []
    hosts = [service.open_host(place.record) for place in (orders.source, orders.target)]
    guests: list[Guest | None] = []
    try:
        troubles = []
        for host, place in zip(hosts, (orders.source, orders.target), strict=True):
            try:
                guests.append(await _attach(host, place))
            except GodwitError as error:
                guests.append(None)
                troubles.append(error.message)
        source, target = guests
        if source is None:
            return troubles
        copies = [DiskCopy(job, ImageFacts("", "", 0, 0), job) for job in orders.jobs]
        if last_word in {HANDS_OVER, HANDS_OVER_STOPPED} and target is not None:
            return await _see_through(source, target, copies, orders.before, resume=last_word == HANDS_OVER)
        if last_word in {HANDS_OVER, HANDS_OVER_STOPPED}:
            return [*troubles, "the guest was being handed over: look at both sides"]
        await sever(hosts[0], orders.disks)
        return await take_back(source, target, copies, orders.before)
    finally:
        for guest in guests:
            if guest is not None:
                await guest.close()
        for host in hosts:
            await host.close()


async def _see_through(
    source: Guest, target: Guest, copies: list[DiskCopy], before: dict[str, bool], *, resume: bool
) -> list[str]:
    """Go on where the disks are there and the server is closed; the source may have been told so, or not yet."""
    view = await source.view()
    try:
        await hand_over(source, target, resume=resume, say_go=view.raw.endswith("/pre-switchover"))
    except MigrationFailedError as error:  # the source says that it kept the guest
        return [error.message, *await take_back(source, target, copies, before)]
    except GodwitError as error:
        return [error.message]
    return []


async def _attach(host: Host, place: Place) -> Guest:
    """Open a monitor that the console, which has just died, may seem to hold for a moment."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await host.attach(place.vm)
        except MonitorBusyError:
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(_RETRY)
