"""libvirt in the laboratory: a libvirtd on each host, a guest that it owns, and `virsh migrate`.

The daemons are the hosts' own: they see a host's /etc/libvirt, /var/lib/libvirt and /run/libvirt, and end with it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from godwit.bench.machines import inside
from godwit.errors import LabError
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.lab.furnish import GuestImage, GuestPlan
    from godwit.lab.laboratory import Laboratory

READY_DEADLINE: Final = 15.0

# /var/cache and /var/log are the machine's own in a host, and nothing may be left there. libvirt looks up its default
# user before it reads that the guests are root's. The copied key stands for what an administrator has set up before.
_SET_UP: Final = """\
set -eu
mount -t tmpfs -o mode=755 tmpfs /var/cache
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p /etc/libvirt
cat >/etc/libvirt/libvirtd.conf <<'END'
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{host_uuid}"
log_outputs = "3:file:/var/log/libvirtd.log"
END
cat >/etc/libvirt/qemu.conf <<'END'
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
shared_filesystems = [ "/mnt/images" ]
migration_host = "{migration_address}"
END
grep -q ^libvirt-qemu: /etc/passwd || echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
grep -q ^libvirt-qemu: /etc/group || echo 'libvirt-qemu:x:64055:' >>/etc/group
umask 077
mkdir -p /root/.ssh
cat >/root/.ssh/known_hosts <<'END'
{known_hosts}
END
cat >/root/.ssh/id_ed25519 <<'END'
{key}
END
exec /usr/sbin/libvirtd --daemon
"""

# The devices of a guest that Godwit defines, at the same places, so that both have the same to save and to load.
_DOMAIN: Final = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/mnt/images/{name}.vmlinuz</kernel>
    <initrd>/mnt/images/{name}.initrd</initrd>
    <cmdline>{append}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <rng model='virtio-non-transitional'>
      <backend model='random'>/dev/urandom</backend>
      <address type='pci' bus='0' slot='0x03'/>
    </rng>
    <memballoon model='virtio-non-transitional' {balloon}>
      <address type='pci' bus='0' slot='0x05'/>
    </memballoon>
    <disk type='file' device='disk' model='virtio-non-transitional'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/mnt/images/{name}.qcow2'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' bus='0' slot='0x06'/>
    </disk>
    <interface type='bridge'>
      <source bridge='br0'/>
      <model type='virtio-non-transitional'/>
      <rom enabled='no'/>
      <address type='pci' bus='0' slot='0x10'/>
    </interface>
    <serial type='unix'><source mode='bind' path='/run/libvirt/{name}-console.sock'/></serial>
  </devices>
</domain>
"""


@dataclass(frozen=True, slots=True)
class LibvirtGuest:
    """A running guest that libvirt owns."""

    lab: Laboratory
    name: str
    address: str

    def host(self) -> str:
        """Return the machine that the guest runs on. Raises LabError."""
        for host in self.lab.hosts:
            if self.name in inside(self.lab, host, ["virsh", "list", "--name", "--state-running"]).split():
                return host
        message = f"{self.name} runs nowhere"
        raise LabError(message)

    async def migrate(
        self, source: str, target: str, options: Sequence[str] = (), deadline: float | None = None
    ) -> dict[str, int] | None:
        """Type `virsh migrate --live` on the source; return libvirt's own figures of the move.

        None where it had not ended after `deadline` seconds and was aborted; one that cannot be, or ends just then, is
        waited for. Raises LabError for one that failed before.
        """
        command = ["virsh", "migrate", "--live", "--verbose", *options, self.name, f"qemu+ssh://{target}/system"]
        process = await asyncio.create_subprocess_exec(
            *self.lab.command(source, command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        ends = asyncio.create_task(process.communicate())
        done, _ = await asyncio.wait([ends], timeout=deadline)
        if not done:
            with suppress(LabError):  # there is no job any more, or none that can be aborted
                inside(self.lab, source, ["virsh", "domjobabort", self.name])
        out, _ = await ends
        if process.returncode != 0 and not done:
            return None
        if process.returncode != 0:
            said = out.decode(errors="replace").strip()[-2000:]
            message = f"{' '.join(command)} on {source}: {said}"
            raise LabError(message)
        return self._completed_job(target)

    def _completed_job(self, host: str) -> dict[str, int]:
        """Return what libvirt itself tells of the move that has just ended on `host`."""
        text = inside(self.lab, host, ["virsh", "domjobinfo", self.name, "--completed", "--rawstats"])
        pairs = (line.partition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdigit()}


async def start_daemons(lab: Laboratory) -> None:
    """Start a libvirtd on every host of a laboratory whose host tree has it. Raises LabError."""
    for name, host in lab.hosts.items():
        script = _SET_UP.format(
            host_uuid=uuid.uuid4(),
            migration_address=host.migration_address,
            known_hosts=host.known_hosts.read_text().strip(),
            key=host.key_file.read_text().strip(),
        )
        inside(lab, name, ["sh", "-s"], script)
    for name in lab.hosts:
        await _answers(lab, name)


async def _answers(lab: Laboratory, host: str) -> None:
    """Wait until a host's libvirtd serves QEMU: it opens its socket before it has loaded its drivers."""
    deadline = time.monotonic() + READY_DEADLINE
    while True:
        try:
            inside(lab, host, ["virsh", "--connect", "qemu:///system", "version"])
        except LabError as error:
            if time.monotonic() > deadline:
                log = inside(lab, host, ["cat", "/var/log/libvirtd.log"])
                message = f"libvirtd on {host} does not serve QEMU: {error.message}\n{log[-2000:]}"
                raise LabError(message) from error
            await asyncio.sleep(0.1)
        else:
            return


def start_guest(lab: Laboratory, image: GuestImage, plan: GuestPlan, host: str = "host1") -> LibvirtGuest:
    """Define a guest of the laboratory's image with libvirt, and start it. Raises LabError."""
    balloon = "freePageReporting='on'" if plan.reports else "autodeflate='on'"
    words = {"memory": plan.memory // MIB, "append": escape(image.append), "balloon": balloon}
    domain = _DOMAIN.format(name=image.name, **words)
    inside(lab, host, ["virsh", "define", "/dev/stdin"], domain)
    inside(lab, host, ["virsh", "start", image.name])
    return LibvirtGuest(lab, image.name, image.address)
