"""Plugging devices in and out: what is said to QEMU, in which order, and what is undone when it refuses."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from godwit.errors import HypervisorError, InputError, MonitorCommandError, MonitorLostError
from godwit.model import DevicePlan, DiskPlan, FunctionPlan, NicPlan
from godwit.qemu import plugging, plugs
from godwit.qemu.monitor import LOST, Monitor, MonitorEvent, MonitorEvents
from godwit.qemu.qom import Device

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFINED = ("virtio-net-pci", "nic0", "pcie.0")
PORT0, PORT1 = ("pcie-root-port", "hotplug0", "pcie.0"), ("pcie-root-port", "hotplug1", "pcie.0")
ADDING = {"device_add", "netdev_add", "blockdev-add"}
REMOVING = {"device_del", "netdev_del", "blockdev-del"}


@dataclass
class Machine:
    """A QEMU as far as plugging sees it; `says` are events that follow a device_del, `refuses` what it does not do."""

    rows: list[tuple[str, str, str]] = field(default_factory=lambda: [DEFINED, PORT0, PORT1])
    refuses: dict[str, str] = field(default_factory=dict)
    says: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    lets_go: bool = True
    netdevs: dict[str, str] = field(default_factory=lambda: {"net0": "tap0"})
    nodes: list[str] = field(default_factory=list)
    properties: dict[str, dict[str, object]] = field(default_factory=lambda: {"nic0": {"netdev": "net0"}})
    said: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    version: tuple[int, int, int] = (10, 0, 2)
    streams: list[MonitorEvents] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def events(self) -> MonitorEvents:
        self.streams.append(MonitorEvents())
        return self.streams[-1]

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        given = dict(arguments or {})
        if command in ADDING | REMOVING:
            self.said.append((command, given))
        if command == "device_del":
            self.asked.set()
        if command in self.refuses:
            message = f"QEMU refused `{command}`: {self.refuses[command]}"
            raise MonitorCommandError(message)
        return getattr(self, "_" + command.replace("-", "_"))(given)

    def _qom_list(self, given: dict[str, object]) -> object:
        if given["path"] != "/machine/peripheral":
            return []
        return [{"name": name, "type": f"child<{kind}>"} for kind, name, _ in self.rows]

    def _qom_get(self, given: dict[str, object]) -> object:
        name = str(given["path"]).rsplit("/", 1)[-1]
        _, _, bus = next(row for row in self.rows if row[1] == name)
        known = {"parent_bus": f"/machine/{bus}", "hotplugged": bus != "pcie.0", **self.properties.get(name, {})}
        if given["property"] not in known:
            message = "Property not found"
            raise MonitorCommandError(message)
        return known[str(given["property"])]

    def _human_monitor_command(self, _: dict[str, object]) -> object:
        return "".join(f"{name}: index=0,type=tap,ifname={tap}\r\n" for name, tap in self.netdevs.items())

    def _query_block(self, _: dict[str, object]) -> object:
        return [
            {"qdev": f"/machine/peripheral/{name}/virtio-backend", "inserted": {"file": "/a.raw"}}
            for name, said in self.properties.items()
            if "drive" in said
        ]

    def _query_named_block_nodes(self, _: dict[str, object]) -> object:
        return [{"node-name": node} for node in self.nodes]

    def _netdev_add(self, given: dict[str, object]) -> object:
        self.netdevs[str(given["id"])] = str(given["ifname"])
        return {}

    def _netdev_del(self, given: dict[str, object]) -> object:
        del self.netdevs[str(given["id"])]
        return {}

    def _blockdev_add(self, given: dict[str, object]) -> object:
        self.nodes.append(str(given["node-name"]))
        return {}

    def _blockdev_del(self, given: dict[str, object]) -> object:
        self.nodes.remove(str(given["node-name"]))
        return {}

    def _device_add(self, given: dict[str, object]) -> object:
        name = str(given["id"])
        self.rows.append((str(given["driver"]), name, str(given.get("bus", "pci.0"))))
        self.properties[name] = {key: given[key] for key in ("netdev", "drive", "mac", "host") if key in given}
        return {}

    def _device_del(self, given: dict[str, object]) -> object:
        if self.lets_go:
            self.rows = [row for row in self.rows if row[1] != given["id"]]
        for name, data in self.says:
            self.streams[-1].put(MonitorEvent(name, data, 0.0))
        return {}

    @property
    def spoken(self) -> list[str]:
        return [f"{command} {said.get('id') or said.get('node-name')}" for command, said in self.said]


def monitor_of(machine: Machine) -> Monitor:
    return cast("Monitor", machine)


NIC = NicPlan("br0", "52:54:00:00:00:07", identifier="nic1")
DISK = DiskPlan("/a.raw", "raw", identifier="disk1")
VF = FunctionPlan("0000:3b:02.0", identifier="host0")


@pytest.mark.parametrize(
    ("plan", "spoken", "kind", "source"),
    [
        (NIC, ["netdev_add nic1-net", "device_add nic1"], "nic", "tap9"),
        (DISK, ["blockdev-add disk1-file", "blockdev-add disk1-format", "device_add disk1"], "disk", "/a.raw"),
        (VF, ["device_add host0"], "function", "0000:3b:02.0"),
    ],
)
async def test_a_device_comes_into_the_first_free_port_after_what_it_needs(
    plan: DevicePlan, spoken: list[str], kind: str, source: str
) -> None:
    machine = Machine()
    machine.rows.append(("virtio-rng-pci", "rng9", "hotplug0"))
    made = await plugging.plug(machine, "web1", plan, tap="tap9")
    assert (made.identifier, made.bus, made.kind, made.source) == (plan.identifier, "hotplug1", kind, source)
    assert (made.removable, made.added) == (True, True)
    assert machine.spoken == spoken


async def test_a_disk_goes_past_the_page_cache_unless_that_is_asked_for() -> None:
    machine = Machine()
    await plugging.plug(machine, "web1", DISK)
    assert [said["cache"] for command, said in machine.said if command == "blockdev-add"] == [
        {"direct": True, "no-flush": False}
    ] * 2


@pytest.mark.parametrize("plan", [NIC, DISK, VF])
async def test_what_was_made_for_a_device_that_qemu_refuses_is_undone(plan: DevicePlan) -> None:
    machine = Machine(refuses={"device_add": "no such model"})
    before = (dict(machine.netdevs), list(machine.nodes))
    with pytest.raises(MonitorCommandError, match="no such model"):
        await plugging.plug(machine, "web1", plan, tap="tap9")
    assert (machine.netdevs, machine.nodes) == before


def device(kind: str, name: str, bus: str) -> Device:
    return Device(
        f"/machine/peripheral/{name}", kind, name, -1, hotplugged=False, bus=bus, bus_path="", address=None, mac=None
    )


def test_ports_are_taken_in_their_order_and_a_full_machine_says_what_mends_it() -> None:
    ports = [device("pcie-root-port", f"hotplug{number}", "pcie.0") for number in (10, 2, 1)]
    assert plugging.free_port("web1", ports, {"pcie.0"}) == "hotplug1"
    taken = [device("e1000e", f"n{number}", f"hotplug{number}") for number in (1, 2)]
    assert plugging.free_port("web1", [*ports, *taken], {"pcie.0"}) == "hotplug10"
    full = [*ports, *taken, device("e1000e", "n10", "hotplug10")]
    for devices, words in ((full, "hotplug1, hotplug2, hotplug10 are taken"), ([], "none")):
        with pytest.raises(HypervisorError, match=words) as caught:
            plugging.free_port("web1", devices, {"pcie.0"})
        assert "hotplug_ports" in caught.value.remedy
    assert plugging.free_port("web1", [], {"pci.0"}) is None


# -- taking out ------------------------------------------------------------------------------------------------------


async def with_device(plan: DevicePlan, **changes: object) -> Machine:
    machine = Machine(**changes)  # type: ignore[arg-type] # fields of Machine
    await plugging.plug(machine, "web1", plan, tap="tap9")
    machine.said.clear()
    return machine


PART: tuple[str, dict[str, object]] = ("DEVICE_DELETED", {"path": "/machine/peripheral/nic1/virtio-backend"})


def gone(name: str) -> tuple[str, dict[str, object]]:
    return "DEVICE_DELETED", {"device": name, "path": f"/machine/peripheral/{name}"}


@pytest.mark.parametrize(
    ("plan", "spoken"),
    [
        (NIC, ["device_del nic1", "netdev_del nic1-net"]),
        (DISK, ["device_del disk1", "blockdev-del disk1-format", "blockdev-del disk1-file"]),
        (VF, ["device_del host0"]),
    ],
)
async def test_a_device_goes_when_its_guest_says_so_and_then_what_is_behind_it(
    plan: DevicePlan, spoken: list[str]
) -> None:
    machine = await with_device(plan)
    machine.says = [PART, gone("another"), gone(plan.identifier)]
    done = await plugging.unplug(monitor_of(machine), "web1", plan.identifier, deadline=5.0)
    assert done is not None
    assert done.identifier == plan.identifier
    assert machine.spoken == spoken


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ([PART], "within 0.05 s"),
        ([("DEVICE_UNPLUG_GUEST_ERROR", {"device": "nic1", "path": "x"})], "DEVICE_UNPLUG_GUEST_ERROR"),
    ],
)
async def test_a_guest_that_does_not_let_go_keeps_all_of_it(
    says: list[tuple[str, dict[str, object]]], words: str
) -> None:
    machine = await with_device(NIC, lets_go=False)
    machine.says = says
    with pytest.raises(HypervisorError, match=words) as caught:
        await plugging.unplug(monitor_of(machine), "web1", "nic1", deadline=0.05)
    assert "godwit device detach web1 nic1" in caught.value.remedy
    assert "nic1-net" in machine.netdevs
    # Asked once more, QEMU says that it is still waiting; then the guest lets go.
    machine.refuses["device_del"] = "Device nic1 is already in the process of unplug"
    machine.rows = [row for row in machine.rows if row[1] != "nic1"]
    assert await plugging.unplug(monitor_of(machine), "web1", "nic1", deadline=0.05) is None
    assert "nic1-net" not in machine.netdevs


async def test_a_request_that_is_under_way_is_waited_for() -> None:
    machine = await with_device(NIC)
    machine.refuses["device_del"] = "Device nic1 is already in the process of unplug"
    asked = asyncio.ensure_future(plugging.unplug(monitor_of(machine), "web1", "nic1", deadline=5.0))
    async with asyncio.timeout(5):
        await machine.asked.wait()
    machine.streams[-1].put(MonitorEvent(*gone("nic1"), 0.0))
    assert (await asked) is not None


async def test_an_event_that_was_missed_is_no_device_that_was_kept() -> None:
    machine = await with_device(NIC)
    assert await plugging.unplug(monitor_of(machine), "web1", "nic1", deadline=0.05) is not None
    assert "nic1-net" not in machine.netdevs


async def test_a_monitor_that_goes_away_is_no_answer() -> None:
    machine = await with_device(NIC, lets_go=False)
    machine.says = [(LOST, {"reason": "x"})]
    with pytest.raises(MonitorLostError, match="let go of nic1"):
        await plugging.unplug(monitor_of(machine), "web1", "nic1", deadline=5.0)


@pytest.mark.parametrize(("name", "words"), [("nic9", "it has: nic0"), ("nic0", "it sits on pcie.0")])
async def test_what_is_not_there_or_cannot_go_is_refused_before_anything_is_asked(name: str, words: str) -> None:
    machine = Machine()
    with pytest.raises(InputError, match=words):
        await plugging.unplug(monitor_of(machine), "web1", name, deadline=5.0)
    assert machine.said == []


# -- memory that was plugged in, written down ------------------------------------------------------------------------


@dataclass
class Objects:
    """A QEMU with memory backends."""

    objects: dict[str, dict[str, object]]
    version: tuple[int, int, int] = (10, 0, 2)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        given = dict(arguments or {})
        if command == "qom-list":
            return [{"name": name, "type": f"child<{said['kind']}>"} for name, said in self.objects.items()]
        said = self.objects[str(given["path"]).rsplit("/", 1)[-1]]
        if given["property"] not in said:
            message = "Property not found"
            raise MonitorCommandError(message)
        return said[str(given["property"])]


MEMORY = {"size": 64 << 20, "share": True, "prealloc": False, "merge": True, "dump": True, "policy": "default"}
HUGE = {**MEMORY, "kind": "memory-backend-memfd", "hugetlb": True, "hugetlbsize": 2 << 20, "seal": True}
SMALL = {**HUGE, "hugetlb": False, "hugetlbsize": 0}
FILE = {**MEMORY, "kind": "memory-backend-file", "mem-path": "/dev/hugepages/m", "align": 0, "pmem": False}


@pytest.mark.parametrize(("said", "without"), [(HUGE, ()), (SMALL, ("hugetlbsize",)), (FILE, ())])
async def test_plugged_memory_is_written_down_with_all_that_it_was_made_with(
    said: dict[str, object], without: tuple[str, ...]
) -> None:
    option = await plugs.object_option(Objects({"m1": said}), "m1")
    properties = {key: value for key, value in said.items() if key not in {"kind", "policy", *without}}
    assert option.value is not None
    assert option.name == "object"
    assert json.loads(option.value) == {"qom-type": said["kind"], "id": "m1", **properties}


async def test_memory_that_is_bound_to_nodes_of_its_host_is_not_guessed() -> None:
    with pytest.raises(plugs.UnknownPlugError, match="bound to nodes"):
        await plugs.object_option(Objects({"m1": {**HUGE, "policy": "bind"}}), "m1")
