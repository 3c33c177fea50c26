"""Two hosts side by side: each difference is found, what follows either way is said, and likeness is silent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_preflight import QEMU, host

from godwit.core.differences import Aspect, compare
from godwit.model import BridgeFacts, CpuModel, HostFacts, HostResources, HugePages, StorageFacts
from godwit.units import GIB, MIB

ONE = host("one", resources=HostResources(huge_pages=(HugePages(2 * MIB, 512),), cpus=frozenset(range(8))))
NFS = StorageFacts("/mnt/images", "nfs4", "filer:/images", GIB, GIB)


def two(**changes: object) -> HostFacts:
    return replace(ONE, name="two", **changes)  # type: ignore[arg-type]


def has(**changes: object) -> HostFacts:
    return two(resources=replace(ONE.resources, **changes))  # type: ignore[arg-type]


def qemu(**changes: object) -> HostFacts:
    return two(qemu=replace(QEMU, **changes))  # type: ignore[arg-type]


ROWS: list[tuple[str, HostFacts, str, str]] = [
    ("architecture", two(architecture="i686"), "64-bit guests do not run on two", ""),
    ("architecture", two(architecture="aarch64"), "refused on two (architecture)", "refused on one (architecture)"),
    ("CPU vendor", two(cpu_vendor="AuthenticAMD"), "cpu-vendor", "cpu-vendor"),
    ("CPU model", two(cpu_model="EPYC"), "", ""),
    ("CPU flags", two(cpu_flags=ONE.cpu_flags - {"avx2"}), "miss flags on two", "find all flags"),
    ("CPU flags", two(cpu_flags=ONE.cpu_flags | {"amx"}), "find all flags", "miss flags on one"),
    ("NX", two(cpu_flags=ONE.cpu_flags - {"nx"}), "nx-differs", "nx-gained"),
    ("accelerators", two(accelerators=("tcg",)), "guests under kvm are refused (accelerator)", ""),
    ("QEMU", qemu(version=(9, 2, 0)), "qemu-older", "as it should be"),
    ("QEMU", two(qemu=None), "qemu-missing", "as it should be"),
    ("machine types", qemu(machine_types=("pc-q35-9.2",)), "pc-q35-10.0 are refused (machine-type)", ""),
    ("encryption", qemu(encrypts=False), "cannot-encrypt", "cannot-encrypt"),
    ("kernel", two(kernel="5.10"), "kernel-differs", "kernel-differs"),
    ("kernel", two(kernel="6.11"), "", ""),
    ("bridge br0", two(bridges=()), "bridge-missing", ""),
    ("bridge br1", two(bridges=(*ONE.bridges, BridgeFacts("br1", 1500, up=True))), "", "(on one)"),
    ("bridge br0", two(bridges=(BridgeFacts("br0", 9000, up=True),)), "bridge-mtu", "bridge-mtu"),
    ("bridge br0", two(bridges=(BridgeFacts("br0", 1500, up=True, vlans=(7,)),)), "bridge-vlan", "bridge-vlan"),
    ("bridge br0", two(bridges=(BridgeFacts("br0", 1500, up=False),)), "down", "down"),
    ("firewall", has(tracks_bridged=True), "conntrack", ""),
    ("send queue", two(can_shorten_send_queue=False), "", "send-queue"),
    ("storage /mnt/images", two(storage=(NFS,)), "", "are copied along"),
    ("memory", two(memory_total=8 * GIB, memory_available=GIB), "more than 1.0 GiB", "more than 8.0 GiB"),
    ("huge pages of 2.0 MiB", has(huge_pages=()), "fit up to 0", ""),
    ("CPUs", has(cpus=frozenset(range(4))), "numa-node", ""),
    ("memory nodes", has(nodes=frozenset({0})), "", ""),
    ("locked memory", has(locked_memory=MIB), "memlock", ""),
    ("open files", has(open_files_hard=1024), "open-files", ""),
    ("confinement", has(confinement=("SELinux",)), "confined", ""),
    ("clock", two(clock_offset=7.0), "jump by 7.00 s", "jump by 7.00 s"),
]


def apart(here: HostFacts, there: HostFacts) -> dict[str, Aspect]:
    return {aspect.subject: aspect for aspect in compare(here, there) if aspect.differs}


def test_a_host_and_its_like_do_not_differ() -> None:
    found = compare(ONE, two())
    assert not any(one.differs for one in found)
    assert len(found) > 15
    assert {one.onward for one in found if one.subject != "memory"} == {""}


@pytest.mark.parametrize(("subject", "there", "onward", "back"), ROWS, ids=[f"{row[0]}-{row[2][:20]}" for row in ROWS])
def test_a_difference_is_named_with_what_follows_either_way(
    subject: str, there: HostFacts, onward: str, back: str
) -> None:
    found = apart(ONE, there)
    aspect = found[subject]
    assert aspect.here != aspect.there
    for says, wanted in ((aspect.onward, onward), (aspect.back, back)):
        assert wanted in says
        assert bool(wanted) == bool(says)
    mirrored = apart(there, ONE)[subject]
    assert (mirrored.here, mirrored.there) == (aspect.there, aspect.here)
    assert (mirrored.onward, mirrored.back) == (aspect.back, aspect.onward)
    assert set(found) <= {subject, "NX", "CPU flags", "machine types"}


def test_what_differs_comes_first() -> None:
    found = compare(ONE, two(kernel="5.10", clock_offset=9.0))
    assert [one.differs for one in found] == sorted((one.differs for one in found), reverse=True)


def test_the_seed_s_storage_at_two_places_is_named_with_the_mend() -> None:
    here, there = replace(ONE, storage=(NFS,)), two(storage=(replace(NFS, path="/mnt"),))
    found = apart(here, there)
    assert "two has it at /mnt" in found["storage /mnt/images"].onward
    assert "mkdir -p /mnt/images; mount --bind /mnt /mnt/images  (on two)" in found["storage /mnt/images"].onward
    assert "mount --bind /mnt/images /mnt  (on one)" in found["storage /mnt"].back


def test_each_host_has_its_own_root_and_its_own_disks() -> None:
    own = (StorageFacts("/", "ext4", "/dev/sda1", 1, 1), StorageFacts("/boot/efi", "vfat", "/dev/sda2", 1, 1))
    data = StorageFacts("/srv", "xfs", "/dev/sdb", 1, 1)
    here, there = replace(ONE, storage=(*own, data)), two(storage=(replace(data, source="/dev/nvme0n1"),))
    assert apart(here, there) == {}


def test_models_by_name_are_compared_by_what_each_lacks() -> None:
    full, poor = CpuModel("Broadwell"), CpuModel("Broadwell", frozenset({"rtm"}))
    here, there = (replace(ONE, qemu=replace(QEMU, kvm_models=(one,))) for one in (full, poor))
    found = apart(here, replace(there, name="two"))
    assert found["CPU models, KVM"].onward == "guests with Broadwell miss flags (cpu-model)"
    assert found["CPU models, KVM"].back == ""
