"""The command line of a guest that Godwit defines: made so that it moves well.

- Machine type and PCI addresses are fixed, so that they do not depend on what was plugged when.
- The disks go past the page cache, so that the other host sees what was written.
- virtio-balloon reports free pages as the guest frees them: they are not sent at all.
- No vapic, which only 32-bit Windows of the XP age gains from, and virtio devices without the registers of virtio 0.9:
  each lengthens every blackout by one or two milliseconds under TCG.
- Two QMP sockets: one to control, one to observe, since each serves one client.
- All memory is shared, where QEMU can do that: a new QEMU on the same host takes it as it stands (cpr-transfer). Its
  block is called what QEMU itself calls it, so that the stream is the same as that of a guest without.
- No -daemonize: whoever starts it detaches it, and what it says until its end goes to its log.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from godwit.core.devices import tap_name
from godwit.errors import InvalidDefinitionError
from godwit.model import DeviceChoice, DevicePolicy, Launch, Macvtap, Tap, Vm
from godwit.qemu.beside import SHARING
from godwit.qemu.define import FIRST_DESCRIPTOR, GuestDefinition, in_port, mac_of
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from godwit.qemu.define import DiskDefinition, NicDefinition

RUN_FOLDER: Final = "/run/godwit"
_CACHE: Final = {"none": True, "directsync": True, "writeback": False}
_DISPLAY_SLOT, _RANDOM_SLOT, _SERIAL_SLOT, _BALLOON_SLOT = 0x2, 0x3, 0x4, 0x5
_DISK_SLOTS: Final = 0x6
_NIC_SLOTS: Final = 0x10
_PORT_SLOT: Final = 0x1C
"""Slots 0, 1 and 0x1f belong to the chipsets of q35 and i440fx."""

_MEMORY_BLOCK: Final = "pc.ram"
"""What QEMU calls a PC's memory in a stream (default_ram_id in hw/i386/pc.c)."""


def to_vm(
    definition: GuestDefinition,
    *,
    host: str,
    machine: str,
    accelerator: str,
    source_text: str = "",
    shares_memory: bool = False,
) -> Vm:
    """Make the guest that a definition describes, to be started on `host`.

    `machine` is the canonical machine type that stands for the definition's on that host's QEMU, `accelerator` "kvm"
    or "tcg"; `shares_memory` says that this QEMU can share all of a guest's memory. Raises InvalidDefinitionError for
    a machine type without PCI as PCs have it.
    """
    folder = f"{RUN_FOLDER}/{definition.name}"
    taps = _taps(definition)
    argv = (
        definition.qemu,
        *_base(definition, machine, accelerator, shared=shares_memory and definition.shared_memory),
        *_channels(definition, folder),
        *_devices(definition, taps, _root_bus(machine), accelerator),
        *definition.extra_arguments,
        *("-pidfile", f"{folder}/pid"),
    )
    return Vm(
        name=definition.name,
        host=host,
        launch=Launch(argv=argv, folders=(folder,), taps=taps),
        control=f"{folder}/control.sock",
        observe=f"{folder}/observe.sock",
        console=f"{folder}/console.sock",
        pidfile=f"{folder}/pid",
        log=f"{folder}/qemu.log",
        address=definition.address,
        source_text=source_text,
        devices=tuple(
            DeviceChoice(f"nic{index}", DevicePolicy(nic.when_moved))
            for index, nic in enumerate(definition.nics)
            if nic.when_moved != "travel"
        ),
    )


def _taps(definition: GuestDefinition) -> tuple[Tap, ...]:
    """Return the interface on the host of each NIC, in their order."""
    taps: list[Tap] = []
    for index, nic in enumerate(definition.nics):
        macvtap = None
        if nic.macvtap is not None:
            descriptor = FIRST_DESCRIPTOR + sum(tap.macvtap is not None for tap in taps)
            macvtap = Macvtap(nic.macvtap, nic.mode or "bridge", mac_of(definition, index), descriptor)
        taps.append(Tap(tap_name(definition.name, index), nic.bridge or "", macvtap=macvtap))
    return tuple(taps)


def _root_bus(machine: str) -> str:
    for prefix, bus in (("pc-q35-", "pcie.0"), ("pc-i440fx-", "pci.0")):
        if machine.startswith(prefix):
            return bus
    message = f"machine is {machine!r}: guests are defined with pc-q35-X.Y or pc-i440fx-X.Y"
    raise InvalidDefinitionError(message)


def _base(definition: GuestDefinition, machine: str, accelerator: str, *, shared: bool) -> Iterator[str]:
    yield from ("-name", f"guest={definition.name},process=qemu:{definition.name},debug-threads=on")
    sharing = f",memory-backend={_MEMORY_BLOCK},{SHARING}=on" if shared else ""
    yield from ("-machine", f"{machine},accel={accelerator}{sharing}")
    # `max` means another CPU in every version of QEMU; qemu64 under TCG is the same everywhere.
    yield from ("-cpu", definition.cpu or ("host" if accelerator == "kvm" else "qemu64"))
    if accelerator == "tcg":
        yield from ("-global", "apic.vapic=off")
    if shared:
        yield from ("-object", json.dumps(_memory(definition.memory), separators=(",", ":")))
    yield from ("-m", f"size={definition.memory // MIB}M")
    yield from ("-smp", f"cpus={definition.vcpus}")
    yield from ("-nodefaults", "-no-user-config", "-display", "none", "-msg", "timestamp=on")
    if definition.vnc is not None:
        yield from ("-vnc", definition.vnc)
    for option, value in (("kernel", definition.kernel), ("initrd", definition.initrd), ("append", definition.append)):
        if value is not None:
            yield from (f"-{option}", value)


def _memory(size: int) -> dict[str, object]:
    """Return the memory as an object that another process may open."""
    block = {"id": _MEMORY_BLOCK, "x-use-canonical-path-for-ramblock-id": False}
    return {"qom-type": "memory-backend-memfd", **block, "size": size, "share": True}


def _channels(definition: GuestDefinition, folder: str) -> Iterator[str]:
    """Sockets: two monitors, the serial console, and the guest agent's."""
    for name in ("control", "observe", "console", *(("agent",) if definition.agent else ())):
        yield from ("-chardev", f"socket,id={name},path={folder}/{name}.sock,server=on,wait=off")
    for name in ("control", "observe"):
        yield from ("-mon", f"chardev={name},mode=control")
    yield from ("-serial", "chardev:console")


def _devices(definition: GuestDefinition, taps: Sequence[Tap], bus: str, accelerator: str) -> Iterator[str]:
    def device(driver: str, slot: int, rest: str = "") -> tuple[str, str]:
        # Without the registers of virtio 0.9 there is less for the target to map anew; libvirt's q35 guests have none.
        modern = ",disable-legacy=on" if driver.startswith("virtio") else ""
        return "-device", f"{driver},bus={bus},addr={slot:#x}{modern}{rest}"

    if definition.vnc is not None:
        yield from device("VGA", _DISPLAY_SLOT, ",id=display0")
    yield from ("-object", "rng-random,id=random0,filename=/dev/urandom")
    yield from device("virtio-rng-pci", _RANDOM_SLOT, ",id=rng0,rng=random0")
    if definition.agent:
        yield from device("virtio-serial-pci", _SERIAL_SLOT, ",id=serial0")
        yield from ("-device", "virtserialport,bus=serial0.0,nr=1,id=agent0,chardev=agent,name=org.qemu.guest_agent.0")
    if definition.balloon:
        yield from device("virtio-balloon-pci", _BALLOON_SLOT, ",id=balloon0,free-page-reporting=on")
    for index, disk in enumerate(definition.disks):
        yield from _block_nodes(index, disk)
        boot = f",bootindex={index}" if definition.kernel is None else ""
        write_cache = ",write-cache=off" if disk.cache == "directsync" else ""
        rest = f",id=disk{index},drive=disk{index}-format{write_cache}{boot}"
        yield from device("virtio-blk-pci", _DISK_SLOTS + index, rest)
    yield from _nics(definition, taps, bus, accelerator)


def _nics(definition: GuestDefinition, taps: Sequence[Tap], bus: str, accelerator: str) -> Iterator[str]:
    """Yield NICs and root ports. Those that may be taken out sit in the last ports: the first ones stay free."""
    vhost = ",vhost=on" if accelerator == "kvm" else ""
    for index, (nic, tap) in enumerate(zip(definition.nics, taps, strict=True)):
        opened = f"ifname={tap.interface},script=no,downscript=no"
        if tap.macvtap is not None:
            opened = f"fd={tap.macvtap.descriptor}"
        backend = vhost if nic.model == "virtio" else ""
        yield from ("-netdev", f"tap,id=net{index},{opened}{backend}")
        if not in_port(nic):
            modern = ",disable-legacy=on" if nic.model == "virtio" else ""
            place = f"bus={bus},addr={_NIC_SLOTS + index:#x}{modern}"
            yield from ("-device", f"{_driver(nic)},{place}{_nic(definition, index)}")
    if bus != "pcie.0":
        return
    for port in range(definition.hotplug_ports):
        multifunction = ",multifunction=on" if port == 0 else ""
        address = f"{_PORT_SLOT:#x}.{port}"
        yield from (
            "-device",
            f"pcie-root-port,id=hotplug{port},bus=pcie.0,addr={address},chassis={port + 1}{multifunction}",
        )
    ported = [index for index, nic in enumerate(definition.nics) if in_port(nic)]
    for number, index in enumerate(ported, definition.hotplug_ports - len(ported)):
        driver = _driver(definition.nics[index])
        yield from ("-device", f"{driver},bus=hotplug{number}{_nic(definition, index)}")


def _driver(nic: NicDefinition) -> str:
    return "virtio-net-pci" if nic.model == "virtio" else nic.model


def _nic(definition: GuestDefinition, index: int) -> str:
    """Return what every NIC is told; of a pair, which is which."""
    # No boot ROM: it would be one more thing that must be the same on both hosts.
    rest = f",id=nic{index},netdev=net{index},mac={mac_of(definition, index)},romfile="
    if definition.nics[index].when_moved == "failover":
        return f"{rest},failover_pair_id=nic{index - 1}"
    following = definition.nics[index + 1 : index + 2]
    return f"{rest},failover=on" if following and following[0].when_moved == "failover" else rest


def _block_nodes(index: int, disk: DiskDefinition) -> Iterator[str]:
    """Yield the file below and the format above it, in JSON: a path may hold any character."""
    cache = {"direct": _CACHE[disk.cache], "no-flush": False}
    common = {"read-only": disk.read_only, "discard": "unmap", "cache": cache}
    below = {"driver": "file", "node-name": f"disk{index}-file", "filename": disk.path, **common}
    above = {"driver": disk.format, "node-name": f"disk{index}-format", "file": f"disk{index}-file", **common}
    for node in (below, above):
        yield from ("-blockdev", json.dumps(node, separators=(",", ":")))
