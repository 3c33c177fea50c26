"""The table of planted mismatches, and that of sound pairs: what is done to a pair of recorded hosts, what comes of it.

`script/diagrams` makes a part of docs/check-before-you-move.md from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from plantedpairs import (
    DAY,
    DISK,
    IMAGE,
    KVM_MODELS,
    PROOF,
    ROOM,
    SHARED,
    Plant,
    ahead,
    arguments,
    away,
    bridge,
    cpu,
    disk,
    emulated,
    encrypted,
    flags,
    found,
    guest,
    here,
    listens,
    models,
    on_both,
    parent,
    policy,
    said,
    storage,
    then,
    there,
    upgraded,
    version,
    with_client,
)

from godwit.model import (
    DeviceChoice,
    DevicePolicy,
    DiskFacts,
    DiskMode,
    GuestView,
    Macvtap,
    NicFacts,
    Packets,
    PciFunction,
    RunState,
    Severity,
    StrayImage,
    Tap,
    Trial,
    TrialEnd,
    Way,
)
from godwit.units import GIB


@dataclass(frozen=True)
class Planted:
    """One mismatch: how it is planted, the finding that is expected, a phrase of its mend, and what comes with it."""

    name: str
    plant: Plant
    code: str
    severity: Severity
    mend: str
    companions: frozenset[str] = frozenset()


B, W, I = Severity.BLOCK, Severity.WARN, Severity.INFO  # noqa: E741 - as in the table of checks
NFS_AT_MNT = storage(("/", "/dev/vda1", "ext4"), ("/mnt", "filer:/rw-images", "nfs4"))
OFF = policy(way=Way.OFF)
BASE = "backing of disk0"
HOLE = (Packets(1500, 1400), Packets(1500, 1400))
DEVICES = 'name "virtio-blk-pci"\nalias "virtio-blk"'
DENIED = '1700000001\n[1.0] audit: type=1400 audit(1700000000.1:2): apparmor="DENIED" comm="qemu-system-x86" name="/x"'


def below(**changes: object) -> Plant:
    """An overlay alone is to travel, and this is what it rests on."""
    own = replace(PROOF, name=BASE, path="/mnt/images/base.img", read_only=True, token_seen=False, backs="disk0")
    base = replace(own, **changes)  # type: ignore[arg-type]
    overlay = replace(PROOF, token_seen=False, target_identity="", image=IMAGE, place=ROOM)
    return then(policy(disks=DiskMode.INCREMENTAL), found(disks=(overlay, base)))


def plugged(driver: str, **values: str) -> Plant:
    """A device of the guest's."""
    return arguments("-device", ",".join((driver, "id=dev0", *(f"{key}={value}" for key, value in values.items()))))


def taking(name: str, how: str = "unplug", way: Way = Way.LIVE) -> Plant:
    """Somebody says what becomes of a device."""
    return policy(devices=(DeviceChoice(name, DevicePolicy(how)),), way=way)


PAIRED = plugged("e1000e", netdev="net0", bus="rp1", failover_pair_id="nic0")


def cached(version_: str) -> Plant:
    """The disk goes through the page cache of both hosts."""
    facts = DiskFacts("disk0", DISK, "raw", read_only=False, virtual_size=10 * GIB, direct=False)
    return then(guest(disks=(facts,)), version(version_), version(version_, source=True))


NO_FOLDER = replace(ROOM, writable=False, available=None)
MEDIUM: Final[dict[str, object]] = {"read_only": True, "token_seen": False, "target_identity": "1 8"}
NBD = "nbd://filer:10809/web1"


def macvtap(mode: str = "bridge") -> Plant:
    """The guest's NIC is a macvtap on eth0, which the source has."""
    tap = Tap("gw0", "", macvtap=Macvtap("eth0", mode, "52:54:00:00:00:01", 3))
    return then(guest(nics=(NicFacts("net0", "52:54:00:00:00:01", tap),)), parent(source=True))


TAP7 = (NicFacts("net0", "52:54:00:00:00:01", Tap("tap0", "br7")),)
HUGE_FILE = ("-object", "memory-backend-file,id=m,size=2G,mem-path=/dev/hugepages")
HUGE_MEMFD = ("-object", "memory-backend-memfd,id=m,size=2G,hugetlb=on,hugetlbsize=1G")
ROOMY = "1048576 4 0 0 0\n2048 1024 0 0 0"
ENOUGH = on_both(huge_pages=ROOMY)
VFIO = plugged("vfio-pci", host="0000:3b:02.1", bus="rp1")
MATCH = found(matches=(("dev0", PciFunction("0000:3b:02.4", "8086", "1520")),))
LOCKED = arguments("-overcommit", "mem-lock=on")
NO_LOCK = {"capabilities": "CapEff:\t0000000000000000"}
TLS_MISSING = "qemu-system-x86_64: -object: invalid object type: tls-creds-x509"

PLANTED: Final[tuple[Planted, ...]] = (
    Planted("one machine by two names", there(hostname="host1", machine_id="0123456789abcdef0123456789abcdef"),
            "same-machine", B, "another target"),
    Planted("a namesake that is paused", found(on_target=GuestView(RunState.PAUSED, pid=9)), "name-taken", B,
            "end or rename the guest on host2"),
    Planted("a namesake that runs", found(on_target=GuestView(RunState.RUNNING, pid=9)), "name-taken", B, "rename"),
    Planted("a namesake whose monitor is silent", found(on_target=GuestView(RunState.UNREACHABLE, pid=9)),
            "name-unknown", B, "look at process 9 on host2"),
    Planted("a guest's name with a blank", arguments("-name", "guest=my guest"), "name-invalid", W, "-name web1"),
    Planted("no way to the migration address", found(reachable=False), "migration-path", B, "ip route get 198.18.0.12"),
    Planted("no way back", found(returns=False), "way-back", W, "on host2"),
    Planted("all ports in use", found(ports_left=False), "ports-taken", B, "ss -tanp"),
    Planted("a black hole that pings see", found(packets=HOLE), "path-mtu", W, "mtu 1400"),
    Planted("a black hole that a connection falls into", found(packets=HOLE, trial=Trial(TrialEnd.STALLED)),
            "path-stalls", B, "mtu 1400"),
    Planted("a firewall before the ports", found(trial=Trial(TrialEnd.UNCONNECTED, "no answer")), "port-closed", B,
            "49152 to 49215"),
    Planted("a certificate for another name", then(encrypted(), found(trial=Trial(TrialEnd.REFUSED, "no match"))),
            "handshake-fails", B, "godwit tls check"),
    Planted("hosts without qemu-io", found(trial=Trial(TrialEnd.UNTRIED, "no qemu-io")), "link-untried", I, "qemu-"),
    Planted("a link that was measured", found(trial=Trial(TrialEnd.WORKS, "", 49152, 4 << 20, 0.5)), "link-measured", I,
            "godwit forecast"),
    Planted("a display that the target's QEMU lacks", then(arguments("-device", "qxl-vga"), there(devices=DEVICES)),
            "device-model", B, "packages"),
    Planted("a denial of AppArmor", there(denials=DENIED), "denied-lately", W, "dmesg"),
    Planted("a disk of another user", disk(forbidden="Permission denied"), "disk-rights", B, "root_squash"),
    Planted("the QMP socket on shared storage", found(monitor_shared=True), "monitor-shared", B, "below /run"),
    Planted("the target's clock 90 s ahead", ahead(90.0), "clocks-differ", W, "chronyc makestep"),
    Planted("the target's clock 3 s behind", ahead(-3.0), "clocks-differ", W, "systemd-timesyncd"),
    Planted("a send queue that may not be shortened", here(send_queue=""), "send-queue", W, "tcp_notsent_lowat=65536"),
    Planted("a kernel of another major version", there(kernel="5.10.0-21-amd64"), "kernel-differs", I, "release"),
    Planted("a guest that is paused", guest(run_state=RunState.PAUSED), "not-running", B, "godwit vm start web1"),
    Planted("a guest of libvirt's", guest(libvirt=True), "libvirt-owned", B, "libvirt's own tools"),
    Planted("a tap by its open file", guest(inherited_descriptors=("tap,fd=7",)), "inherited-descriptor", B, "names"),
    Planted("a TPM", guest(refusals=("it has the TPM tpm0",)), "cannot-be-repeated", B, "unplug what it names"),
    Planted("an NVMe disk on a QEMU that cannot move it", guest(blockers=("nvme is not migratable",)),
            "blocked-by-qemu", B, "unplug the device named"),
    Planted("no QEMU on the target", there(path="", version=""), "qemu-missing", B, "install QEMU on host2",
            frozenset({"accelerator"})),
    Planted("from QEMU 10.0 to 8.2", version("8.2.2"), "qemu-older", W, "upgrade QEMU on host2"),
    Planted("from QEMU 10.0 to 10.1", version("10.1.0"), "qemu-differs", I, "godwit upgrade"),
    Planted("emulated by QEMU 7.2 on both",
            then(emulated, version("7.2.22"), version("7.2.22", source=True)), "tcg-corrupts", W, "QEMU 8.2 or newer"),
    Planted("a machine type that the target has not", guest(machine="pc-q35-11.0"), "machine-type", B, "a QEMU on"),
    Planted("a machine type that a later QEMU dropped", guest(machine="pc-i440fx-1.4"), "machine-type", B, "host2"),
    Planted("no /dev/kvm on the target", there(kvm="absent"), "accelerator", B, "processor's virtualisation is off"),
    Planted("/dev/kvm that the login may not open", there(kvm="forbidden"), "accelerator", B, "to the group kvm"),
    Planted("KVM that opens and does not run", there(kvm="hangs"), "accelerator", B, "TCG is used instead"),
    Planted("a QEMU without KVM", there(kvm="unsupported"), "accelerator", B, "built without KVM"),
    Planted("switched off with a QEMU that cannot outlive it", then(OFF, version("5.2.0", source=True)),
            "qemu-ends-with-guest", B, "godwit vm stop web1", frozenset({"switched-off"})),
    Planted("to an Arm host", there(architecture="aarch64"), "architecture", B, "same architecture"),
    Planted("a 64-bit guest to a 32-bit host", there(architecture="i686"), "guest-bits", B, "64-bit host"),
    Planted("NX off in the target's firmware", flags("nx"), "nx-differs", B, "firmware of host2"),
    Planted("NX on the target alone", flags("nx", source=True), "nx-gained", I, "firmware of host1"),
    Planted("-cpu host to a processor without AVX-512",
            then(cpu("host"), flags("avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl")), "cpu-flags", B,
            "a CPU model that both hosts have"),
    Planted("-cpu max to a processor without AES", then(cpu("max"), flags("aes")), "cpu-flags", B, "CPU model"),
    Planted("Broadwell to a host whose TSX is off",
            there(kvm_models=KVM_MODELS.replace('"Broadwell", "unavailable-features": []',
                                                '"Broadwell", "unavailable-features": ["hle", "rtm"]')),
            "cpu-model", B, "-cpu Broadwell,hle=off,rtm=off"),
    Planted("Skylake back to Broadwell",
            then(cpu("Skylake-Client"), here(kvm_models=models(Skylake_Client=[], Broadwell=[])),
                 there(kvm_models=models(Skylake_Client=["clflushopt", "mpx", "xsavec"], Broadwell=[]))),
            "cpu-model", B, "-cpu Skylake-Client,clflushopt=off,mpx=off,xsavec=off"),
    Planted("a flag beside the model that the target has not", then(cpu("Broadwell,+sha-ni"), flags("sha_ni")),
            "cpu-model", B, "sha_ni=off"),
    Planted("a model that the target's QEMU does not know", there(kvm_models=models(qemu64=[])), "cpu-model-unknown", B,
            "install a QEMU on host2"),
    Planted("-cpu max under emulation, QEMUs of two versions", then(emulated, cpu("max"), version("10.1.0")),
            "cpu-max-differs", W, "-cpu qemu64", frozenset({"qemu-differs"})),
    Planted("from Intel to AMD", said("cpuinfo", "GenuineIntel", "AuthenticAMD"), "cpu-vendor", W, "same vendor"),
    Planted("a target with half a gigabyte free", said("meminfo", "MemAvailable:", "MemAvailable: 524288 kB\nOld:"),
            "memory-short", B, "free memory on host2"),
    Planted("no hugetlbfs mount on the target", then(ENOUGH, arguments(*HUGE_FILE), there(huge_mounts="")), "hugepages",
            B, "mount -t hugetlbfs -o pagesize=2M none /dev/hugepages"),
    Planted("one huge page too few", then(ENOUGH, arguments(*HUGE_FILE), there(huge_pages="2048 1023 0 0 0")),
            "hugepages", B, "echo $((had + 1)) > $f"),
    Planted("huge pages that are reserved already",
            then(ENOUGH, arguments(*HUGE_FILE), there(huge_pages="2048 1024 512 0 0")), "hugepages", B,
            "echo $((had + 512)) > $f"),
    Planted("pages of 1 GiB on the source alone",
            then(ENOUGH, arguments(*HUGE_MEMFD), there(huge_pages="2048 4096 0 0 0")), "hugepages", B,
            "hugepages-1048576kB"),
    Planted("bound to a memory node that the target has not",
            then(arguments("-object", "memory-backend-ram,id=m,size=2G,host-nodes=1,policy=bind"), here(nodes="0-1")),
            "numa-node", B, "without host-nodes"),
    Planted("bound to processors that the target has not",
            then(arguments("-object", "thread-context,id=t,cpu-affinity=4-5"), here(cpus="0-7")), "numa-node", B,
            "cpu-affinity"),
    Planted("pinned by taskset", then(guest(needs_runs_on=frozenset({0})), here(cpus="0-1")), "cpu-pinning", I,
            "taskset"),
    Planted("locked memory beyond the target's limit", then(LOCKED, there(limits="8192 20000 20000", **NO_LOCK)),
            "memlock", B, "limits.conf"),
    Planted("too few open files permitted", then(guest(needs_open_files=1000), there(limits="unlimited 1024 1024")),
            "open-files", W, "nofile to 2048"),
    Planted("SELinux on the target", there(confinement="SELinux"), "confined", I, "ausearch"),
    Planted("a QEMU profile of AppArmor's on the target", there(confinement="libvirt-qemu (enforce)"), "confined", I,
            "dmesg | grep DENIED"),
    Planted("no bridge on the target", there(links="[]"), "bridge-missing", B, "ip link add br0 type bridge"),
    Planted("a bridge of another name", guest(nics=TAP7), "bridge-missing", B, "ip link set br7 up  (on host2)"),
    Planted("jumbo frames on the source alone", bridge(source=True, mtu=9000), "bridge-mtu", W,
            "ip link set br0 mtu 9000  (on host2)"),
    Planted("a bridge that filters VLANs on the target", bridge(vlan_filtering=1), "bridge-vlan", W,
            "vlan_filtering 0  (on host2)"),
    Planted("bridges in two VLANs", then(bridge(source=True, plugged=100), bridge(plugged=200)), "bridge-vlan", W,
            "interface of VLAN 100"),
    Planted("no interface under a macvtap", macvtap(), "parent-missing", B, "ip link set OTHER name eth0"),
    Planted("an interface under a macvtap that is down", then(macvtap(), parent(flags=[])), "parent-down", B,
            "ip link set eth0 up  (on host2)"),
    Planted("an interface under a macvtap that is in a bridge", then(macvtap(), parent(master="br0")), "parent-taken",
            B, "ip link set eth0 nomaster  (on host2)"),
    Planted("an interface that somebody's passthru has for itself", then(macvtap(), parent(upon="passthru")),
            "parent-taken", B, "ip link delete macvtap0  (on host2)"),
    Planted("passthru on an interface that carries another's", then(macvtap("passthru"), parent(upon="bridge")),
            "parent-taken", B, "another mode"),
    Planted("passthru on an interface with the host's address",
            then(macvtap("passthru"), parent(address="192.0.2.7")), "parent-taken", B, "another interface"),
    Planted("jumbo frames under a macvtap on the source alone",
            then(macvtap(), parent(mtu=1400)), "parent-mtu", W, "ip link set eth0 mtu 1500  (on host2)"),
    Planted("an upgrade of a guest with a macvtap", then(macvtap(), upgraded), "macvtap-held", B, "another host",
            frozenset({"upgrade", "upgrade-in-place"})),
    Planted("a stateful firewall on the target's bridges", there(bridged_firewall="1"), "conntrack", W,
            "bridge-nf-call-iptables=0  (on host2)"),
    Planted("user networking", with_client("user0", "user"), "user-network", W, "a NIC on a bridge"),
    Planted("vhost-user", then(arguments("-chardev", "socket,id=c0,path=/run/vu.sock"),
                               arguments("-netdev", "vhost-user,id=n9,chardev=c0")), "vhost-user", W, "/run/vu.sock"),
    Planted("virtiofs", then(arguments("-chardev", "socket,id=c0,path=/run/fs.sock"),
                             plugged("vhost-user-fs-pci", chardev="c0", tag="x")), "virtiofs", W, "start virtiofsd"),
    Planted("a 9p folder", arguments("-virtfs", "local,path=/srv/share,mount_tag=x,security_model=none"),
            "shared-folder", W, "umount -t 9p"),
    Planted("a USB stick of the host's", plugged("usb-host", hostbus="1", hostaddr="2"), "usb-host", W,
            "device_del dev0"),
    Planted("a VNC port that is taken", then(arguments("-vnc", "127.0.0.1:7"), listens("0.0.0.0:5907")),
            "display-port", W, "info vnc"),
    Planted("a SPICE port that is taken",
            then(arguments("-spice", "port=5930,addr=127.0.0.1"), listens("127.0.0.1:5930")), "port-taken", B,
            "ss -Hltnp sport = :5930  (on host2)"),
    Planted("a serial line's port that is taken",
            then(arguments("-serial", "tcp:0.0.0.0:4555,server=on,wait=off"), listens("*:4555")), "port-taken", B,
            "sport = :4555"),
    Planted("a relative image of a daemonized QEMU", guest(stray_images=(StrayImage("/mnt/images/a.img", "a.img"),)),
            "image-not-found-again", B, "ln -s /mnt/images/a.img /a.img"),
    Planted("--disk with a name that no disk has", policy(disk_modes=(("vdb", DiskMode.FULL),)), "disk-unknown", B,
            "name one of its disks"),
    Planted("the seed's own: /mnt/images here, /mnt there, said to be shared",
            then(there(storage=NFS_AT_MNT), policy(disks=DiskMode.SHARED), disk(token_seen=False, target_identity="")),
            "disk-missing", B, "mount the shared storage at the same place on host2"),
    Planted("the seed's own: /mnt/images here, /mnt there",
            then(there(storage=NFS_AT_MNT), away(place=NO_FOLDER)),
            "disk-folder", B, "mount the storage that holds it  (on host2)"),
    Planted("two files of one name", disk(token_seen=False, target_identity="1 8"), "disk-not-shared", B,
            "storage that both hosts mount at the same place"),
    Planted("two files of one name, one to be copied over the other",
            then(policy(disks=DiskMode.FULL), disk(token_seen=False, target_identity="1 8", image=IMAGE, place=ROOM)),
            "disk-exists", B, "move it away"),
    Planted("a folder that nobody may write to", disk(token_seen=None, error="Read-only file system"), "disk-unproven",
            B, "writable for Godwit on host1"),
    Planted("a disk of the source's own server", disk(path="nbd://127.0.0.1:10809/x"), "disk-unreachable", B,
            "an address that both hosts reach"),
    Planted("another disk at one address", disk(path=NBD, token_seen=False, target_identity="9"), "disk-differs", B,
            "name of the server"),
    Planted("another ISO of one name", disk(**MEDIUM, digests=("9 ab", "9 cd")), "disk-differs", B, "move it away"),
    Planted("another version of the firmware", disk(**MEDIUM, digests=("9 ab", "9 cd"), firmware=True), "disk-differs",
            B, "install the same version on host2"),
    Planted("a copy of one ISO on each host", disk(**MEDIUM, digests=("9 ab", "9 ab")), "disk-same", I, ""),
    Planted("no firmware on the target", disk(read_only=True, token_seen=False, target_identity="", firmware=True),
            "firmware-missing", B, "the same firmware package"),
    Planted("a disk that the target has not", away(), "disk-copied", I, "mount its storage there first"),
    Planted("an image that cannot be described", away(image=None, error="qemu-img is missing"), "disk-not-copied", B,
            "see the reason"),
    Planted("an image with snapshots",
            away(image=replace(IMAGE, format="qcow2", refusals=("it has snapshots",))), "disk-not-copied", B,
            "godwit snapshot send web1"),
    Planted("a shared disk that is to be copied", policy(disks=DiskMode.FULL), "disk-is-shared", B, "at auto"),
    Planted("too little room", away(place=replace(ROOM, available=GIB - 1)), "disk-room", B, "make room on host2"),
    Planted("files that may not be so large",
            away(place=replace(ROOM, file_limit=GIB)), "file-size-limit", B, "ulimit -f"),
    Planted("no qemu-img on the target",
            away(place=replace(ROOM, can_create=False)),
            "qemu-img-missing", B, "apt-get install qemu-utils"),
    Planted("no backing file on the target", below(target_identity=""), "backing-missing", B, "--disk disk0=full"),
    Planted("another backing file", below(target_identity="1 9", digests=("9 ab", "9 cd")), "backing-differs", B,
            "copy the backing file there first"),
    Planted("cached by both hosts, QEMU 2.12", cached("2.12.0"), "disk-cache", W, "cache=none"),
    Planted("cached by both hosts", cached("10.0.2"), "disk-cached", I, "cache.direct=on"),
    Planted("a QEMU without GnuTLS", then(encrypted(), there(tls=TLS_MISSING)), "cannot-encrypt", B, "--plaintext"),
    Planted("an authority that has expired", encrypted(until=-DAY), "authority-expired", B, "godwit tls rotate"),
    Planted("an authority that does not hold yet", encrypted(since=DAY), "authority-expired", B, "godwit tls rotate"),
    Planted("an authority that soon ends", encrypted(until=2 * DAY), "authority-ends", W, "godwit tls rotate"),
    Planted("a clock by which no certificate holds", then(encrypted(), ahead(30 * DAY)), "clock-forbids", B,
            "chronyc makestep", frozenset({"clocks-differ"})),
    Planted("in the clear", policy(plaintext=True), "unencrypted", W, "without --plaintext"),
    Planted("a virtual function of which nobody said a word", VFIO, "device-tied", B, "--device dev0=unplug"),
    Planted("a device that the guest has not", taking("nic9"), "device-unknown", B, "it has: "),
    Planted("failover of a NIC without a partner", then(plugged("e1000e", netdev="net0"), taking("dev0", "failover")),
            "device-alone", B, "--device dev0=unplug"),
    Planted("unplugging what QEMU takes out", then(PAIRED, taking("dev0")), "device-paired", B, "leave --device"),
    Planted("a pair that stands still", then(PAIRED, policy(way=Way.STATIC)), "device-stands-still", B,
            "without --static", frozenset({"stands-still"})),
    Planted("a virtual function and a guest switched off", then(VFIO, MATCH, taking("dev0", way=Way.OFF)), "device-off",
            B, "godwit device detach web1 dev0", frozenset({"switched-off"})),
    Planted("a virtual function on the root bus",
            then(plugged("vfio-pci", host="0000:3b:02.1", bus="pcie.0"), MATCH, taking("dev0")), "device-fixed", B,
            "pcie-root-port"),
    Planted("a virtual function that is unplugged", then(VFIO, MATCH, taking("dev0")), "device-unplugged", I, "bond"),
    Planted("no function for it on the target", then(VFIO, taking("dev0")), "device-no-match", W,
            "dev0=unplug:ADDRESS|VENDOR:DEVICE|POOL", frozenset({"device-unplugged"})),
    Planted("standing still", policy(way=Way.STATIC), "stands-still", I, "without --static"),
    Planted("switched off", OFF, "switched-off", I, "without --off"),
    Planted("an upgrade", upgraded, "upgrade", I, "", frozenset({"upgrade-in-place"})),
    Planted("an upgrade of memory that can be taken", upgraded, "upgrade-in-place", I, "", frozenset({"upgrade"})),
    Planted("an upgrade of memory that cannot be taken",
            then(upgraded, found(hindrances=("its memory is not shared",))), "upgrade-by-copy", W, "Godwit defines",
            frozenset({"upgrade"})),
)  # fmt: skip


SOUND: Final[tuple[tuple[str, Plant], ...]] = (
    ("a macvtap on interfaces that are alike", then(macvtap(), parent())),
    ("a macvtap beside another's", then(macvtap(), parent(upon="bridge", address="192.0.2.7"))),
    ("a macvtap that has its interface for itself", then(macvtap("passthru"), parent())),
    ("two of one kind", then()),
    ("a name of all permitted characters", arguments("-name", "guest=web_1.a-B")),
    ("clocks half a second apart", ahead(0.5)),
    ("a kernel of another minor version", there(kernel="6.12.9-amd64")),
    ("a QEMU of another patch level", version("10.0.3")),
    ("a later QEMU", version("11.0.0")),
    ("an older machine type that both have", guest(machine="pc-q35-7.2")),
    ("a processor with more flags, -cpu host", then(cpu("host"), said("cpuinfo", " nx ", " nx amx_tile "))),
    ("flags that only the source's processor has, a named model", flags("avx512f", "aes")),
    ("what neither host gives of a model", then(cpu("Skylake-Client"))),
    ("Broadwell to Skylake", there(kvm_models=models(Skylake_Client=[], Broadwell=[]))),
    ("flags that the command line takes away", then(cpu("Broadwell,-hle,rtm=off"),
     there(kvm_models=models(Broadwell=["hle", "rtm"])))),
    ("NX off on both", then(flags("nx"), flags("nx", source=True))),
    ("NX off for the guest", then(cpu("Broadwell,nx=off"), flags("nx"))),
    ("NX and an emulated guest", then(emulated, flags("nx"))),
    ("an emulated guest from Intel to AMD", then(emulated, said("cpuinfo", "GenuineIntel", "AuthenticAMD"))),
    ("an emulated guest to a host without KVM", then(emulated, there(kvm="absent"))),
    ("a host that does not say what its models lack", there(kvm_models="", tcg_models="")),
    ("a 32-bit guest to a 32-bit host", then(cpu("pentium3"), emulated, there(architecture="i686", tcg_models=""))),
    ("memory that just fits", said("meminfo", "MemAvailable:", "MemAvailable: 2162688 kB\nOld:")),
    ("huge pages by path", then(ENOUGH, arguments(*HUGE_FILE))),
    ("huge pages of 1 GiB", then(ENOUGH, arguments(*HUGE_MEMFD))),
    ("huge pages by overcommit", then(arguments(*HUGE_FILE), on_both(huge_pages="2048 0 0 2048 0"))),
    ("a host that does not say its huge pages", then(arguments(*HUGE_MEMFD), there(huge_pages=""))),
    ("memory nodes of both", arguments("-object", "memory-backend-ram,id=m,size=2G,host-nodes=0,policy=bind")),
    ("a host that does not say its nodes",
     then(arguments("-object", "memory-backend-ram,id=m,size=2G,host-nodes=3,policy=bind"), there(nodes=""))),
    ("locked memory and root", LOCKED),
    ("locked memory within the limit", then(LOCKED, there(limits="4194304 20000 20000", **NO_LOCK))),
    ("open files within the limit", guest(needs_open_files=1000)),
    ("jumbo frames on both", then(bridge(mtu=9000), bridge(source=True, mtu=9000))),
    ("one VLAN on both", then(bridge(plugged=7), bridge(source=True, plugged=7))),
    ("a firewall on the source alone", here(bridged_firewall="1")),
    ("a firewall and a guest without a bridge", then(guest(nics=()), there(bridged_firewall="1"))),
    ("a VNC port that is free", arguments("-vnc", "127.0.0.1:7")),
    ("a port that is taken at another address",
     then(arguments("-spice", "port=5930,addr=127.0.0.1"), listens("198.18.0.12:5930"))),
    ("a disk past the cache on NFS", there(storage=SHARED)),
    ("an address that both get the same from", disk(path=NBD, source_identity="9", target_identity="9")),
    ("a medium that is shared", disk(read_only=True)),
    ("an authority that holds", encrypted()),
    ("encryption before its first use", found(encrypted=True)),
    ("a host that tells of no storage", there(storage="")),
)  # fmt: skip
"""Pairs of which nothing blocks or warns."""

ELSEWHERE: Final[dict[str, str]] = {}
"""Codes that cannot be planted here, with the test that plants them: tests/FOLDER/FILE.py::FUNCTION."""
