"""Make a laboratory useful: its hosts are registered, and a guest with real programs runs on the first one."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from godwit.errors import GodwitError, LabError
from godwit.lab.guestimage import KERNEL_ARGUMENTS, personalise
from godwit.lab.plan import CLIENT
from godwit.model import HostRecord, RunState
from godwit.units import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from godwit.lab.assets import Assets
    from godwit.lab.laboratory import LabMachine, Laboratory
    from godwit.model import Vm
    from godwit.service import Service

DEFAULT_LAB: Final = "lab"
GUEST_MEMORY: Final = 256 * MIB

DISK: Final = 64 * MIB
"""Bytes of a guest's disk, of which its file has only what was written."""
_DEFINITION: Final = """\
name = "{name}"
memory = "{memory}M"
vcpus = 1
accelerator = "tcg"
kernel = "/mnt/images/{name}.vmlinuz"
initrd = "/mnt/images/{name}.initrd"
append = "{append}"
address = "{address}"
agent = {agent}
hotplug_ports = {hotplug_ports}
balloon = {balloon}
extra_arguments = {extra}

[[disks]]
path = "/mnt/images/{name}.qcow2"
format = "qcow2"

[[nics]]
{nic}
{direct}"""

_DIRECT: Final = """\
mac = "{mac}"

[[nics]]
bridge = "br0"
mac = "{mac}"
model = "vmxnet3"
when_moved = "{when_moved}"
"""


_SILENT_BALLOON: Final = ("-device", "virtio-balloon-pci,id=balloon0,addr=0x5,disable-legacy=on,deflate-on-oom=on")


Direct = Literal["", "unplug", "failover", "held"]
"""What becomes of a guest's second NIC when it moves."""

_WORDS: Final = {
    "": (),
    "unplug": ("godwit.direct=bond",),
    "failover": ("godwit.direct=failover",),
    "held": ("godwit.direct=bond", "acpiphp.disable=1"),
}
"""What a guest does with its second NIC."""


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """A guest of the laboratory: `number` gives its address, `words` go to its init (see lab/guest/rc).

    Under TCG every device lengthens the pause of a move; so the guest agent's channel and the ports for hot-plugging
    are there only when asked for. A guest whose balloon does not report (`reports`) what is free keeps all memory that
    it has ever used; it takes memory back from its balloon when that runs short.
    `direct` gives it a second NIC, one that stands for a part of the host and does not travel: "unplug" for one that is
    bonded with the first in the guest, "failover" for one that QEMU takes out, "held" for one that the guest keeps.
    `nic` is what its definition says of its first NIC. `extra` goes to its QEMU, with its name in place of {name}.
    """

    name: str = "web1"
    number: int = 0
    memory: int = GUEST_MEMORY
    words: tuple[str, ...] = ()
    agent: bool = False
    hotplug_ports: int = 0
    reports: bool = True
    disk: int = DISK
    direct: Direct = ""
    nic: str = 'bridge = "br0"'
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Files of a guest below /mnt/images: NAME.vmlinuz, NAME.initrd, NAME.qcow2. `append` goes to its kernel."""

    name: str
    address: str
    append: str


def prefix(lab: str) -> str:
    """Return what stands before the names of a laboratory's hosts and guests; the default one's have none."""
    return "" if lab == DEFAULT_LAB else f"{lab}-"


async def register(service: Service, lab: Laboratory) -> list[str]:
    """Register the laboratory's hosts and its client; returns their names. Raises LabError, HostError."""
    await forget(service, lab.plan.name)
    known = {record.name for record in await service.inventory.hosts()}
    records = [_record(prefix(lab.plan.name) + one.name, one) for one in (*lab.hosts.values(), lab.client)]
    for record in records:
        if record.name in known:
            message = f"a host {record.name} is registered already, and is none of this laboratory's"
            raise LabError(message, remedy=f"godwit host remove {record.name}, or godwit lab up OTHER-NAME")
    # Side by side: each host tries once whether its KVM really runs, which takes seconds where it does not.
    await asyncio.gather(*(service.add_host(record) for record in records))
    return [record.name for record in records]


def _record(name: str, machine: LabMachine) -> HostRecord:
    return HostRecord(
        name=name,
        url=f"ssh://{machine.ssh_user}@{machine.ssh_address}:{machine.ssh_port}",
        identity_file=str(machine.key_file),
        known_hosts=str(machine.known_hosts),
        use_agent=False,
        migration_address=machine.migration_address or "",
    )


async def forget(service: Service, lab: str) -> None:
    """Remove from the inventory what belongs to a laboratory of that name, and end what still waits for it."""
    folder = f"/run/godwit/lab/{lab}/"
    ours = {
        record.name for record in await service.inventory.hosts() if (record.identity_file or "").startswith(folder)
    }
    for vm in await service.inventory.vms():
        if vm.host in ours:
            await service.inventory.remove_vm(vm.name)
    for name in ours:
        await service.inventory.remove_host(name)


def public_key(lab: Laboratory) -> str:
    """Return the public key whose private half opens every machine and guest of the laboratory."""
    return lab.client.key_file.with_suffix(".pub").read_text()


async def add_guest(service: Service, lab: Laboratory, assets: Assets, plan: GuestPlan, host: str = "host1") -> Vm:
    """Define a guest with redis, SSH and a ticking program, and start it. Raises LabError, HypervisorError."""
    image = await place_image(lab, assets, plan, host)
    name = image.name
    more = [argument.format(name=name) for argument in plan.extra]
    text = _DEFINITION.format(
        name=name,
        memory=plan.memory // MIB,
        address=image.address,
        append=image.append,
        agent=str(plan.agent).lower(),
        hotplug_ports=plan.hotplug_ports + bool(plan.direct),
        direct=_direct(plan),
        balloon=str(plan.reports).lower(),
        nic=plan.nic,
        extra=json.dumps([*more, *(() if plan.reports else _SILENT_BALLOON)]),
    )
    vm = await service.define_vm(text, f"{name}.toml", prefix(lab.plan.name) + host)
    return await service.start_vm(vm.name)


def _direct(plan: GuestPlan) -> str:
    """Return the second NIC of a definition; both have one address, so that nobody has to learn another."""
    if not plan.direct:
        return ""
    return _DIRECT.format(when_moved=plan.direct.replace("held", "unplug"), mac=f"52:54:00:67:77:{plan.number:02x}")


async def place_image(lab: Laboratory, assets: Assets, plan: GuestPlan, host: str = "host1") -> GuestImage:
    """Put a guest's kernel, root file system and empty disk where the hosts see them. Raises LabError."""
    name = prefix(lab.plan.name) + plan.name
    folders = {lab.images(machine) for machine in lab.hosts}
    for folder in folders:
        _place(folder, name, assets, public_key(lab))
    disk = ["qemu-img", "create", "-q", "-f", "qcow2", f"/mnt/images/{name}.qcow2", str(plan.disk)]
    created = await asyncio.to_thread(
        subprocess.run, lab.command(host, disk), capture_output=True, text=True, check=False
    )
    if created.returncode != 0:
        message = f"no disk for {name}: {created.stderr.strip()}"
        raise LabError(message)
    address = lab.plan.guest_address(plan.number)
    words = (KERNEL_ARGUMENTS, f"godwit.name={name}", f"godwit.address={address}/24", *_WORDS[plan.direct], *plan.words)
    return GuestImage(name, address, " ".join(words))


def _place(folder: Path, name: str, assets: Assets, key: str) -> None:
    shutil.copyfile(assets.kernel, folder / f"{name}.vmlinuz")
    personalise(assets, folder / f"{name}.initrd", key)


async def stop_guests(service: Service, lab: Laboratory) -> None:
    """End the laboratory's guests; the laboratory is about to end, so that what fails here is no loss."""
    ours = {prefix(lab.plan.name) + machine for machine in lab.hosts}
    for vm in await service.inventory.vms():
        if vm.host not in ours:
            continue
        try:
            if (await service.view_vm(vm)).state is not RunState.ABSENT:
                await service.stop_vm(vm.name, force=True)
        except GodwitError:
            # Its host may have crashed on purpose; ending the laboratory ends every process in it.
            continue


__all__ = [
    "CLIENT",
    "DEFAULT_LAB",
    "Direct",
    "GuestImage",
    "GuestPlan",
    "add_guest",
    "forget",
    "place_image",
    "prefix",
    "register",
    "stop_guests",
]
