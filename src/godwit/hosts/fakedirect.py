"""Devices of a simulated guest that do not travel: taken from it, given back, and QEMU's own failover of NICs.

Measured on QEMU 10.0: `device_del` returns before its effect, a second one is refused while the first is open, nothing
is plugged or unplugged while a stream runs, and a stream of a guest that has a failover primary waits (`wait-unplug`)
until the guest has let go of it. A stopped guest lets go of nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Final

from godwit.hosts.fakestream import LIVE
from godwit.model import DirectFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.hosts.fakeqemu import FakeQemu

TIED: Final = "vfio-pci"
_DIRECT: Final = frozenset({TIED, "vmxnet3"})
_AGAIN: Final = 0.05


class FakeDirect:
    """The NICs of one QEMU that are none of virtio's, by name, each with what `device_add` takes."""

    def __init__(self, qemu: FakeQemu) -> None:
        """Have what the command line says; a target has no failover primary before the guest asks for it."""
        self._qemu = qemu
        found = {str(one["id"]): one for one in _on_command_line(qemu.launch.argv)}
        self.there = {name: one for name, one in found.items() if not (qemu.stays_stopped and _pair(one))}
        self.hidden = {name: one for name, one in found.items() if name not in self.there}
        self.asked: set[str] = set()

    def facts(self) -> tuple[DirectFacts, ...]:
        """Describe them as a guest's facts do."""
        return tuple(
            DirectFacts(
                name,
                str(one["driver"]),
                function=str(one.get("host", "")),
                tied=one["driver"] == TIED,
                partner=_pair(one),
            )
            for name, one in self.there.items()
        )

    def properties(self, name: str) -> str:
        """Return what device_add takes to make one again."""
        return json.dumps(self.there[name])

    def blockers(self) -> tuple[str, ...]:
        """Say what QEMU itself says of devices that it cannot send."""
        return tuple(
            f"{one.get('host', name)}: VFIO migration is not supported in kernel"
            for name, one in self.there.items()
            if one["driver"] == TIED and not _pair(one)
        )

    def let_go(self, name: str) -> None:
        """Obey device_del: the guest is asked, and takes its time."""
        if name not in self.there:
            return  # "Device 'x' not found" is what is wanted, see godwit.qemu.unplugging
        if self._qemu.migration in LIVE:
            self._qemu.refuse("device_del", "device_del not allowed while migrating")
        if name in self.asked:
            return
        self.asked.add(name)
        self._qemu.world.say_device(self._qemu, f"is asked to let go of {name}")
        if self._qemu.workload.lets_go is not None:
            asyncio.get_running_loop().call_later(self._qemu.workload.lets_go, self._gone, name)

    def _gone(self, name: str) -> None:
        """Let go, unless the guest stands still; then a little later."""
        if not self._qemu.alive or name not in self.asked:
            return
        if self._qemu.hung:
            self._qemu.backlog.append(partial(self._gone, name))
            return
        if self._qemu.raw != "running":
            asyncio.get_running_loop().call_later(_AGAIN, self._gone, name)
            return
        self.asked.discard(name)
        self.there.pop(name, None)
        self._qemu.world.say_device(self._qemu, f"has let go of {name}")
        self._qemu.tell("DEVICE_DELETED", status=name)

    def put_back(self, properties: str) -> None:
        """Obey device_add."""
        wanted = json.loads(properties)
        if self._qemu.migration in LIVE:
            self._qemu.refuse("device_add", "device_add not allowed while migrating")
        if wanted["id"] in self.there:
            self._qemu.refuse("device_add", f"Duplicate device ID '{wanted['id']}'")
        if self._qemu.raw == "inmigrate":
            self._qemu.refuse("device_add", "the machine is not there yet")
        self.there[wanted["id"]] = wanted
        self._qemu.world.say_device(self._qemu, f"has {wanted['id']}")

    # -- failover ------------------------------------------------------------------------------------------------------

    @property
    def primaries(self) -> frozenset[str]:
        """The devices that QEMU takes out itself before it sends anything."""
        return frozenset(name for name, one in self.there.items() if _pair(one))

    def hide(self) -> None:
        """Have let go of the failover primaries."""
        for name in self.primaries:
            self.hidden[name] = self.there.pop(name)
            self._qemu.tell("UNPLUG_PRIMARY", status=name)

    def show(self) -> None:
        """Have the failover primaries again."""
        self.there |= self.hidden
        self.hidden = {}

    def fits(self, source: FakeQemu) -> bool:
        """Say whether this QEMU can load what the source sends: it needs the very same devices."""
        return set(self.there) == set(source.direct.there)


def _pair(one: dict[str, object]) -> str:
    return str(one.get("failover_pair_id", ""))


def _on_command_line(argv: tuple[str, ...]) -> Iterator[dict[str, object]]:
    for flag, value in itertools.pairwise(argv):
        if flag != "-device":
            continue
        if value.startswith("{"):
            one: dict[str, object] = json.loads(value)
        else:
            driver, *pairs = value.split(",")
            one = {"driver": driver, **dict(pair.split("=", 1) for pair in pairs)}
        if one["driver"] in _DIRECT:
            yield one
