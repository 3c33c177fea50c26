"""Each row of preflight: evidence that fires it, and evidence just short of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from godwit.core.disks import copies
from godwit.core.preflight import Evidence, blocking, check
from godwit.core.preflight.evidence import DiskProof
from godwit.core.preflight.hosts import CLOCK_TOLERANCE, MEMORY_OVERHEAD
from godwit.model import (
    BridgeFacts,
    DiskMode,
    Finding,
    GuestFacts,
    GuestView,
    HostFacts,
    ImageFacts,
    Launch,
    NicFacts,
    PlaceFacts,
    Policy,
    QemuFacts,
    RunState,
    Severity,
    StrayImage,
    Tap,
    Vm,
)
from godwit.units import GIB

QEMU = QemuFacts("qemu-system-x86_64", (10, 0, 2), ("pc-q35-10.0", "pc-q35-9.2"), (("q35", "pc-q35-10.0"),))
LAUNCH = Launch(("qemu-system-x86_64",))
SAME_DISK = DiskProof(
    "disk0", "/images/web.raw", read_only=False, token_seen=True, source_identity="1 7", target_identity="1 7"
)


def host(name: str, **changes: object) -> HostFacts:
    facts = HostFacts(
        name=name,
        hostname=f"{name}.lan",
        machine_id=f"id-{name}",
        kernel="6.12",
        architecture="x86_64",
        cpu_model="Xeon Gold 6430",
        cpu_vendor="GenuineIntel",
        cpu_flags=frozenset({"lm", "nx", "avx2"}),
        cpu_count=8,
        memory_total=16 * GIB,
        memory_available=8 * GIB,
        qemu=QEMU,
        accelerators=("kvm", "tcg"),
        bridges=(BridgeFacts("br0", 1500, up=True),),
        migration_address="198.18.0.2",
        clock_offset=0.0,
        clock_uncertainty=0.01,
        can_shorten_send_queue=True,
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


GUEST = GuestFacts(
    vm="web",
    run_state=RunState.RUNNING,
    qemu_version=(10, 0, 2),
    machine="pc-q35-10.0",
    accelerator="kvm",
    cpu_model="host",
    memory=2 * GIB,
    vcpus=2,
    disks=(),
    nics=(NicFacts("net0", "52:54:00:00:00:01", Tap("tap0", "br0")),),
    launch=LAUNCH,
    pid=77,
)
GOOD = Evidence(
    vm=Vm("web", "one", LAUNCH, "/run/web/control"),
    policy=Policy(),
    guest=GUEST,
    source=host("one"),
    target=host("two"),
    on_target=GuestView(RunState.ABSENT),
    disks=(SAME_DISK,),
    reachable=True,
)

Change = Callable[[Evidence], Evidence]


def guest(**changes: object) -> Change:
    return lambda e: replace(e, guest=replace(e.guest, **changes))  # type: ignore[arg-type]


def source(**changes: object) -> Change:
    return lambda e: replace(e, source=replace(e.source, **changes))  # type: ignore[arg-type]


def target(**changes: object) -> Change:
    return lambda e: replace(e, target=replace(e.target, **changes))  # type: ignore[arg-type]


def whole(**changes: object) -> Change:
    return lambda e: replace(e, **changes)  # type: ignore[arg-type]


def disk(**changes: object) -> Change:
    return lambda e: replace(e, disks=(replace(SAME_DISK, **changes),))  # type: ignore[arg-type]


def both(*changes: Change) -> Change:
    def change(e: Evidence) -> Evidence:
        for one in changes:
            e = one(e)
        return e

    return change


def away(**changes: object) -> Change:
    """A disk that the target does not have."""
    there: dict[str, object] = {"target_identity": "", "token_seen": False, "image": IMAGE, "place": PLACE}
    return disk(**there | changes)


def below(**changes: object) -> DiskProof:
    """A backing file of the disk, which each side has for itself."""
    base = DiskProof("disk0 backing", "/images/base.raw", True, False, f"{GIB}:7", f"{GIB}:8", backs="disk0")  # noqa: FBT003
    return replace(base, **changes)  # type: ignore[arg-type]


def overlay(*chain: DiskProof, mode: DiskMode = DiskMode.INCREMENTAL) -> Change:
    """A disk that the target does not have, with backing files."""
    change = both(whole(policy=Policy(disks=mode)), away())
    return lambda e: replace(change(e), disks=(*change(e).disks, *chain))


def full(**changes: object) -> Change:
    """A disk that the user wants copied."""
    return both(whole(policy=Policy(disk_modes=(("disk0", DiskMode.FULL),))), disk(**changes))


def older(version: tuple[int, int, int]) -> Change:
    return target(qemu=replace(QEMU, version=version))


BLOCK, WARN = Severity.BLOCK, Severity.WARN
SHARED = whole(policy=Policy(disks=DiskMode.SHARED))
IMAGE = ImageFacts("/images/web.raw", "qcow2", 10 * GIB, GIB, "/images/base.raw", "raw")
PLACE = PlaceFacts(exists=False, writable=True, available=GIB, can_create=True)

FIRES: list[tuple[str, Severity, Change, str]] = [
    ("same-machine", BLOCK, target(machine_id="id-one", hostname="one.lan"), "one and two are the same machine"),
    ("name-taken", BLOCK, whole(on_target=GuestView(RunState.PAUSED, pid=9)), "has a guest web (paused, process 9)"),
    ("name-unknown", BLOCK, whole(on_target=GuestView(RunState.UNREACHABLE, detail="silent", pid=9)), "silent"),
    ("memory-short", BLOCK, target(memory_available=2 * GIB + MEMORY_OVERHEAD - 1), "needs 2.1 GiB"),
    ("bridge-missing", BLOCK, target(bridges=()), "two has no bridge br0"),
    ("bridge-mtu", WARN, target(bridges=(BridgeFacts("br0", 1400, up=True),)), "MTU 1500 on one, 1400 on two"),
    ("migration-path", BLOCK, whole(reachable=False), "198.18.0.2"),
    ("clocks-differ", WARN, target(clock_offset=CLOCK_TOLERANCE + 0.03), "1.03 s ahead of"),
    ("clocks-differ", WARN, target(clock_offset=-7.0), "7.00 s behind"),
    ("send-queue", WARN, source(can_shorten_send_queue=False), "may not be set on one"),
    *(("not-running", BLOCK, guest(run_state=one), str(one)) for one in RunState if one is not RunState.RUNNING),
    ("libvirt-owned", BLOCK, guest(libvirt=True), "libvirt owns"),
    ("inherited-descriptor", BLOCK, guest(inherited_descriptors=("tap,fd=7",)), "tap,fd=7"),
    ("cannot-be-repeated", BLOCK, guest(refusals=("the disk d1 has no path",)), "the disk d1 has no path"),
    ("blocked-by-qemu", BLOCK, guest(blockers=("nvme is not migratable",)), "nvme is not migratable"),
    ("qemu-missing", BLOCK, target(qemu=None), "two has no qemu-system-x86_64"),
    ("qemu-older", WARN, older((9, 2, 0)), "QEMU 10.0.2 on one, 9.2.0 on two"),
    ("tcg-corrupts", WARN, both(guest(accelerator="tcg", qemu_version=(8, 1, 9)), older((8, 1, 9))), "QEMU 8.1.9"),
    ("machine-type", BLOCK, guest(machine="pc-q35-10.1"), "has no machine type pc-q35-10.1"),
    ("accelerator", BLOCK, target(accelerators=("tcg",)), "runs under kvm; usable on two: tcg"),
    ("accelerator", BLOCK, target(accelerators=()), "usable on two: none"),
    ("architecture", BLOCK, target(architecture="aarch64"), "x86_64 on one, aarch64 on two"),
    ("cpu-flags", BLOCK, target(cpu_flags=frozenset({"lm", "nx"})), "lacks avx2"),
    ("cpu-flags", BLOCK, both(guest(cpu_model="max,vmx=off"), target(cpu_flags=frozenset({"lm", "nx"}))), "lacks avx2"),
    ("cpu-vendor", WARN, target(cpu_vendor="AuthenticAMD"), "GenuineIntel on one, AuthenticAMD on two"),
    ("disk-missing", BLOCK, both(SHARED, disk(target_identity="", token_seen=False)), "two has no /images/web.raw"),
    ("disk-missing", BLOCK, both(SHARED, disk(target_identity="", token_seen=None)), "two has no /images/web.raw"),
    ("disk-copied", Severity.INFO, away(), "1.0 GiB of 10.0 GiB"),
    ("disk-not-copied", BLOCK, away(image=None, error="qemu-img is missing"), "qemu-img is missing"),
    ("disk-not-copied", BLOCK, away(image=replace(IMAGE, refusals=("it is encrypted",))), "it is encrypted"),
    ("disk-room", BLOCK, away(place=replace(PLACE, available=GIB - 1)), "/images on two has 1024.0 MiB left"),
    ("file-size-limit", BLOCK, away(place=replace(PLACE, file_limit=GIB)), "may not be larger than 1.0 GiB"),
    ("disk-folder", BLOCK, away(place=replace(PLACE, writable=False)), "no folder /images"),
    ("disk-folder", BLOCK, away(place=replace(PLACE, available=None)), "no folder /images"),
    ("qemu-img-missing", BLOCK, away(place=replace(PLACE, can_create=False)), "two has no qemu-img"),
    ("backing-missing", BLOCK, overlay(), "/images/web.raw has no backing file"),
    ("backing-missing", BLOCK, overlay(below(target_identity="")), "two has no /images/base.raw, on which"),
    ("backing-differs", BLOCK, overlay(below(digests=("9 ab", "9 cd"))), "(9 ab here, 9 cd there)"),
    ("backing-differs", BLOCK, overlay(below(error="it cannot be read")), "it cannot be read there"),
    ("disk-unknown", BLOCK, whole(policy=Policy(disk_modes=(("vdb", DiskMode.FULL),))), "no disk vdb; it has disk0"),
    ("disk-is-shared", BLOCK, full(), "both hosts see the same /images/web.raw"),
    ("disk-exists", BLOCK, full(token_seen=False, target_identity="1 8"), "another /images/web.raw"),
    ("disk-unproven", BLOCK, disk(token_seen=None, error="Read-only file system"), "Read-only file system"),
    ("image-not-found-again", BLOCK, guest(stray_images=(StrayImage("/images/a", "a"),)), "/images/a as a and"),
    ("disk-not-shared", BLOCK, disk(token_seen=False, target_identity="1 8"), "1 7 on one, 1 8 on two"),
]  # fmt: skip

SILENT: list[tuple[str, Change]] = [
    ("same-machine", target(machine_id="id-one")),  # cloned images keep their machine-id
    ("same-machine", target(hostname="one.lan")),
    ("memory-short", target(memory_available=2 * GIB + MEMORY_OVERHEAD)),
    ("bridge-missing", both(guest(nics=()), target(bridges=()))),
    ("bridge-missing", both(guest(nics=(NicFacts("net0", "", None),)), target(bridges=()))),
    ("bridge-missing", both(guest(nics=(NicFacts("net0", "", Tap("tap0", "")),)), target(bridges=()))),
    ("bridge-mtu", source(bridges=())),
    ("bridge-mtu", target(bridges=(BridgeFacts("br0", 1500, up=True), BridgeFacts("br1", 9000, up=True)))),
    ("clocks-differ", target(clock_offset=CLOCK_TOLERANCE + 0.01)),  # within what is known of the clocks
    ("clocks-differ", both(source(clock_offset=500.0), target(clock_offset=500.5))),
    ("send-queue", target(can_shorten_send_queue=False)),  # only the sender queues
    ("qemu-older", older((10, 1, 0))),
    ("tcg-corrupts", both(guest(qemu_version=(7, 2, 22)), older((7, 2, 22)))),  # under KVM
    ("tcg-corrupts", both(guest(accelerator="tcg", qemu_version=(8, 2, 0)), older((8, 2, 0)))),
    ("machine-type", guest(machine="pc-q35-9.2")),
    ("machine-type", target(qemu=replace(QEMU, machine_types=()))),  # not asked for: nothing is known
    ("accelerator", guest(accelerator="tcg")),
    ("cpu-flags", target(cpu_flags=frozenset({"lm", "nx", "avx2", "amx"}))),
    ("cpu-flags", both(guest(cpu_model="qemu64"), target(cpu_flags=frozenset()))),
    ("cpu-flags", both(guest(accelerator="tcg"), target(cpu_flags=frozenset()))),
    ("cpu-vendor", both(guest(accelerator="tcg"), target(cpu_vendor="AuthenticAMD"))),
    ("disk-missing", whole(disks=())),
    ("disk-not-shared", disk(read_only=True)),
]


def findings(change: Change) -> dict[str, Finding]:
    return {finding.code: finding for finding in check(change(GOOD))}


def test_two_hosts_that_fit_have_no_findings() -> None:
    assert check(GOOD) == ()


@pytest.mark.parametrize(("code", "severity", "change", "words"), FIRES, ids=[row[0] for row in FIRES])
def test_what_is_wrong_is_found_with_its_reason_and_its_mend(
    code: str, severity: Severity, change: Change, words: str
) -> None:
    found = findings(change)
    assert set(found) == {code}
    finding = found[code]
    assert finding.severity is severity
    assert words in finding.found
    assert finding.subject
    assert finding.why
    assert finding.mend
    assert "None" not in finding.found + finding.mend


@pytest.mark.parametrize(("code", "change"), SILENT, ids=[row[0] for row in SILENT])
def test_what_only_looks_like_it_is_no_finding(code: str, change: Change) -> None:
    assert code not in findings(change)


def test_a_host_that_does_not_answer_for_the_name_is_told_apart_from_a_name_that_is_taken() -> None:
    found = findings(whole(on_target=GuestView(RunState.UNREACHABLE, detail="no answer within 3 s")))
    assert set(found) == {"name-unknown"}
    assert "None" not in found["name-unknown"].mend


@pytest.mark.parametrize("mode", [DiskMode.AUTO, DiskMode.INCREMENTAL])
@pytest.mark.parametrize("changes", [{"token_seen": True}, {"digests": ("9 ab", "9 ab")}])
def test_an_overlay_alone_is_copied_where_what_lies_below_is_the_same(
    mode: DiskMode, changes: dict[str, object]
) -> None:
    evidence = overlay(below(**changes), mode=mode)(GOOD)
    (finding,) = check(evidence)
    assert finding.code == "disk-copied"
    assert "the overlay alone; /images/base.raw is there already" in finding.found
    (copy,) = copies(evidence.policy, evidence.disks)
    assert (copy.mode, copy.image.backing) == (DiskMode.INCREMENTAL, "/images/base.raw")


@pytest.mark.parametrize("changes", [{"target_identity": ""}, {"digests": ("9 ab", "9 cd")}, {"error": "unreadable"}])
def test_left_to_godwit_a_disk_is_copied_whole_where_what_lies_below_is_not_the_same(
    changes: dict[str, object],
) -> None:
    evidence = overlay(below(**changes), mode=DiskMode.AUTO)(GOOD)
    roomy = replace(evidence.disks[0], place=replace(PLACE, available=2 * GIB))
    evidence = replace(evidence, disks=(roomy, *evidence.disks[1:]))
    (finding,) = check(evidence)
    assert "with all that its backing files hold" in finding.found
    (copy,) = copies(evidence.policy, evidence.disks)
    assert (copy.mode, copy.image.backing) == (DiskMode.FULL, "")
    tight = replace(evidence, disks=(replace(roomy, place=replace(PLACE, available=2 * GIB - 1)), evidence.disks[1]))
    assert [one.code for one in check(tight)] == ["disk-room"]


def test_a_shared_overlay_may_rest_on_two_files_of_one_content() -> None:
    assert check(replace(GOOD, disks=(SAME_DISK, below(digests=("9 ab", "9 ab"))))) == ()
    assert [one.code for one in check(replace(GOOD, disks=(SAME_DISK, below())))] == ["disk-not-shared"]


def test_a_copy_brings_along_what_its_backing_files_hold() -> None:
    lost = below(target_identity="")
    change = away(place=replace(PLACE, available=99 * GIB))
    assert [one.code for one in check(replace(change(GOOD), disks=(*change(GOOD).disks, lost)))] == ["disk-copied"]
    assert [one.code for one in check(replace(GOOD, disks=(SAME_DISK, lost)))] == ["disk-missing"]


def test_each_disk_and_each_bridge_is_looked_at() -> None:
    other = replace(SAME_DISK, name="disk1", path="/images/data.raw", token_seen=False, target_identity="5 5")
    nics = (NicFacts("net0", "", Tap("tap0", "br0")), NicFacts("net1", "", Tap("tap1", "br7")))
    found = check(replace(GOOD, disks=(SAME_DISK, other), guest=replace(GUEST, nics=nics)))
    assert [(finding.code, finding.subject) for finding in found] == [
        ("bridge-missing", "br7"),
        ("disk-not-shared", "/images/data.raw"),
    ]


def test_the_mend_of_a_lost_image_can_be_typed() -> None:
    lost = (StrayImage("/mnt/my images/b.img", "my images/b.img"), StrayImage("/mnt/c.img", "c.img"))
    assert [one.mend.partition("  (")[0] for one in check(guest(stray_images=lost)(GOOD))] == [
        "mkdir -p '/my images'; ln -s '/mnt/my images/b.img' '/my images/b.img'",
        "ln -s /mnt/c.img /c.img",
    ]


def test_what_blocks_comes_first_and_only_that_forbids() -> None:
    found = check(
        both(source(can_shorten_send_queue=False), target(memory_available=0, cpu_vendor="AuthenticAMD"))(GOOD)
    )
    assert [finding.severity for finding in found] == [BLOCK, WARN, WARN]
    assert [finding.code for finding in blocking(found)] == ["memory-short"]


def test_many_missing_flags_are_counted_not_recited() -> None:
    flags = frozenset(f"flag{number:02d}" for number in range(30))
    found = findings(both(source(cpu_flags=flags), target(cpu_flags=frozenset())))
    assert found["cpu-flags"].found.endswith("flag06, flag07 and more")
