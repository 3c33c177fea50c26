"""The table of all checks: what each is called, how bad it is, why it matters; docs/check-before-you-move.md shows it.

Severity and reason of a finding have their home here (`found`); what was found and the mend come from the check.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from godwit.model import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.model import Command


@dataclass(frozen=True, slots=True)
class Row:
    """One check: `finds` is what it looks for, `why` what that would do to the guest or its users."""

    code: str
    severity: Severity
    finds: str
    why: str


_B, _W, _I = Severity.BLOCK, Severity.WARN, Severity.INFO

SUBJECTS: Final[Mapping[str, tuple[Row, ...]]] = MappingProxyType(
    {
        "Hosts and the way between them": (
            Row(
                "same-machine", _B, "both names lead to one machine", "the guest would move onto the host that it is on"
            ),
            Row(
                "name-taken",
                _B,
                "the target has a guest of that name",
                "two guests of one name would share monitor, taps and disks",
            ),
            Row(
                "name-unknown",
                _B,
                "the target cannot say whether it has",
                "two guests of one name would share monitor, taps and disks",
            ),
            Row(
                "name-invalid",
                _W,
                "QEMU calls an adopted guest by a name with other characters than letters, digits, `_`, `.` and `-`",
                "other tools on the target may take it for something else: it stands in paths, command lines and logs",
            ),
            Row(
                "migration-path", _B, "the source does not reach the migration address", "the stream would have no way"
            ),
            Row(
                "way-back",
                _W,
                "the target does not reach the source's migration address",
                "the guest could not come back this way",
            ),
            Row("ports-taken", _B, "the target has no port left for a stream", "its QEMU could not listen for it"),
            Row(
                "port-closed",
                _B,
                "a port of those that streams take cannot be connected to (tried by `godwit check`)",
                "the stream would have no way",
            ),
            Row(
                "handshake-fails",
                _B,
                "no encrypted connection comes about with such certificates as a move has (tried by `godwit check`)",
                "the move would fail at its beginning",
            ),
            Row(
                "path-stalls",
                _B,
                "a connection comes about, and nothing that is large arrives (tried by `godwit check`, and where pings "
                "let one doubt it)",
                "the move would begin, and hang",
            ),
            Row(
                "link-untried",
                _I,
                "a host lacks what a connection is tried with, or it could not be tried",
                "what keeps a stream from its way is only seen when the move begins, and goes back",
            ),
            Row("link-measured", _I, "`--measure`", "it says how long memory and disks take at least"),
            Row(
                "path-mtu",
                _W,
                "large packets vanish between the migration addresses, and nobody is told (pings say so)",
                "a connection comes about, and hangs as soon as there is much to send",
            ),
            Row(
                "monitor-shared",
                _B,
                "the guest's QMP socket lies on shared storage",
                "the target's QEMU would take the socket away, and nobody could speak to the source's any more",
            ),
            Row("clocks-differ", _W, "the hosts' clocks differ by more than a second", "the guest's time could jump"),
            Row(
                "send-queue",
                _W,
                "its send queue cannot be kept short",
                "what waits unsent in the kernel lengthens the blackout by up to some 100 ms",
            ),
            Row(
                "kernel-differs",
                _I,
                "the hosts run kernels of different major versions",
                "KVM, vhost and bridges come with the kernel: should something go wrong, this is where to look",
            ),
        ),
        "The machine": (
            Row("not-running", _B, "the guest is paused or off", "only a running guest can be moved"),
            Row("libvirt-owned", _B, "libvirt owns its QEMU", "two managers of one process undo each other's work"),
            Row(
                "inherited-descriptor",
                _B,
                "its command line takes an open file",
                "the same command line cannot be started on another host",
            ),
            Row(
                "cannot-be-repeated",
                _B,
                "a device cannot be made anew",
                "the target must be started with exactly the same devices",
            ),
            Row("blocked-by-qemu", _B, "QEMU itself names a reason", "QEMU refuses to migrate this guest"),
            Row("qemu-missing", _B, "the target lacks the guest's QEMU", "nothing could run the guest"),
            Row(
                "qemu-older",
                _W,
                "the target's QEMU is older",
                "the move can fail late, when device state of the newer one arrives",
            ),
            Row(
                "qemu-differs",
                _I,
                "the target's QEMU is newer",
                "the same machine type keeps the board the same; the way back is one to an older QEMU",
            ),
            Row(
                "tcg-corrupts",
                _W,
                "emulated by a QEMU before 8.2",
                "their dirty tracking has a race: a guest that writes can arrive corrupted",
            ),
            Row(
                "machine-type",
                _B,
                "the target's QEMU lacks the machine type",
                "the guest must find the same board on the other side",
            ),
            Row(
                "device-model",
                _B,
                "the target's QEMU has not all device models of the guest",
                "it would not start",
            ),
            Row(
                "accelerator",
                _B,
                "the target cannot use the guest's accelerator",
                "a running guest cannot change its accelerator",
            ),
            Row(
                "qemu-ends-with-guest",
                _B,
                "`--off`, and a QEMU before 6.0",
                "a guest that is off could not be taken back when something fails (set-action came with QEMU 6.0)",
            ),
        ),
        "The processor": (
            Row("architecture", _B, "the hosts' architectures differ", "the guest's instructions mean nothing there"),
            Row(
                "guest-bits",
                _B,
                "a 64-bit guest, and a target that runs 32-bit ones alone (a 32-bit guest may go anywhere)",
                "the guest's instructions mean nothing there",
            ),
            Row(
                "nx-differs",
                _B,
                "the source's processor has NX and the target's has not, or has it switched off",
                "the guest marks pages as no-execute; there that is a reserved bit, and every access to them a fault",
            ),
            Row(
                "nx-gained",
                _I,
                "the target's processor has NX and the source's has not",
                "the guest does not use it, and so is no better protected than before; the way back stays open",
            ),
            Row(
                "cpu-flags",
                _B,
                "the guest sees the host's own CPU, and the target's lacks flags",
                "the guest may be using them, and would crash",
            ),
            Row(
                "cpu-model",
                _B,
                "the guest's CPU model has flags that the source gives it and the target cannot",
                "the guest found them at its boot and uses them: it would crash at the first one that is missing",
            ),
            Row(
                "cpu-model-unknown",
                _B,
                "the target's QEMU does not know the guest's CPU model",
                "it would not start",
            ),
            Row(
                "cpu-max-differs",
                _W,
                "an emulated guest with `-cpu max`, and QEMUs of two versions",
                "`max` is what each version can emulate: what the guest found at its boot may not be there",
            ),
            Row(
                "cpu-vendor",
                _W,
                "the processors are of two vendors",
                "a guest can fail on what it learnt of its CPU at its boot",
            ),
        ),
        "Memory and limits": (
            Row("memory-short", _B, "the target has not enough memory", "the target would swap or end processes"),
            Row(
                "hugepages",
                _B,
                "the guest's memory is in huge pages, and the target has too few, or no such mount",
                "its QEMU would not start, or would take ordinary memory and be slow",
            ),
            Row(
                "numa-node",
                _B,
                "the guest is bound to memory nodes or processors that the target does not have",
                "its QEMU would not start there",
            ),
            Row(
                "cpu-pinning",
                _I,
                "the guest's QEMU may use some of the source's processors alone (taskset, a cpuset)",
                "that belongs to its process, and is not carried along: on the target it may use them all",
            ),
            Row(
                "memlock",
                _B,
                "the guest's memory is locked, and the target permits less",
                "its QEMU would not start, or could not hand the memory to the device",
            ),
            Row(
                "open-files",
                _W,
                "the target permits fewer open files than the guest's QEMU needs",
                "its QEMU would fail at one disk, queue or connection more, maybe long after the move",
            ),
            Row(
                "confined",
                _I,
                "SELinux or AppArmor may confine QEMU on the target",
                "a disk or socket that is permitted here may be forbidden there; QEMU then says Permission denied",
            ),
            Row(
                "denied-lately",
                _W,
                "SELinux or AppArmor has forbidden a QEMU on the target something during the last day",
                "it may forbid this guest's the same, at its start or long after it",
            ),
        ),
        "Network": (
            Row("bridge-missing", _B, "the target lacks a bridge", "the guest would arrive without its network"),
            Row("bridge-mtu", _W, "the MTUs of the bridges differ", "large packets could be lost after the move"),
            Row(
                "bridge-vlan",
                _W,
                "the bridges filter VLANs on one side alone, or are plugged into different VLANs",
                "the guest could arrive in another network, or its tagged packets be dropped",
            ),
            Row(
                "parent-missing",
                _B,
                "the target lacks the interface under a macvtap of the guest's",
                "the guest would arrive without its network",
            ),
            Row("parent-down", _B, "it is down on the target", "the guest would arrive without its network"),
            Row(
                "parent-taken",
                _B,
                "it is part of a bridge or bond on the target, or another has it for itself, or the host "
                "itself needs what `passthru` would take",
                "the macvtap cannot be made there, or would cut off others",
            ),
            Row(
                "parent-mtu",
                _W,
                "the MTUs of the interfaces under a macvtap differ",
                "large packets could be lost after the move",
            ),
            Row(
                "macvtap-held",
                _B,
                "`godwit upgrade` of a guest with a macvtap",
                "an interface carries an address once only, so the new QEMU can have no macvtap beside the old one's",
            ),
            Row(
                "conntrack",
                _W,
                "a stateful firewall on the target sees what its bridges carry",
                "it knows nothing of the guest's connections, and may drop them as invalid",
            ),
            Row(
                "user-network",
                _W,
                "a NIC on QEMU's own user network",
                "its connections are made by QEMU's process on the source, and all end with the move",
            ),
        ),
        "Devices": (
            Row(
                "vhost-user",
                _W,
                "a device whose other half is a program on the host (vhost-user)",
                "the target's QEMU waits for that program at its socket, and nothing goes on until it is there",
            ),
            Row(
                "virtiofs",
                _W,
                "a folder of the host, by virtiofsd",
                "QEMU before 8.2 refuses; later ones need the same folder and a virtiofsd that migrates, on both sides",
            ),
            Row(
                "shared-folder",
                _W,
                "a folder of the host, by 9p",
                "QEMU refuses to move a guest that has it mounted; unmounted, the target needs the same folder",
            ),
            Row(
                "usb-host",
                _W,
                "a USB device of the host",
                "it stays in the source: the guest sees it pulled out, or gets what is at the same place there",
            ),
            Row(
                "device-tied",
                _B,
                "a function of the host (VT-d, SR-IOV) of which nobody said what becomes of it, or `=refuse`",
                "QEMU cannot send what is in it: the guest has to let go of it first",
            ),
            Row("device-unknown", _B, "`--device` names one that the guest does not have", "it would mean nothing"),
            Row(
                "device-alone",
                _B,
                "`=failover`, and no virtio NIC is paired with it",
                "QEMU takes a NIC out only where another one stands in for it",
            ),
            Row("device-paired", _B, "`=unplug`, and QEMU itself takes it out", "both would do it, one in vain"),
            Row(
                "device-stands-still",
                _B,
                "`--static`, and a NIC that QEMU takes out when the stream begins",
                "a guest that stands still lets go of nothing: the stream would never begin",
            ),
            Row(
                "device-off",
                _B,
                "`--off`, and a PCI function of the host",
                "it would be started with another host's function, there or on the way back",
            ),
            Row("device-fixed", _B, "it sits where nothing can be unplugged", "the guest could not let go of it"),
            Row(
                "device-unplugged",
                _I,
                "a device is taken out for the way",
                "the guest's traffic goes over its other NIC meanwhile",
            ),
            Row(
                "device-no-match",
                _W,
                "the target has no function that stands for one of the source's",
                "the guest stays on its other NIC after the move",
            ),
            Row(
                "display-port",
                _W,
                "the port of the guest's VNC display is taken on the target",
                "the display moves to the next free port; at the old one somebody else answers",
            ),
            Row(
                "port-taken",
                _B,
                "a TCP port that the guest's QEMU listens at (SPICE, serial line, `hostfwd`) is taken on the target",
                "its QEMU would not start there",
            ),
        ),
        "Disks": (
            Row(
                "image-not-found-again",
                _B,
                "a relative image of a daemonized QEMU",
                "it would not find its disk again at the very end of the move, and refuse to hand it over",
            ),
            Row(
                "disk-unknown",
                _B,
                "`--disk` names one that the guest does not have",
                "what is said of a disk that is not there would mean nothing",
            ),
            Row("disk-missing", _B, "the target lacks a shared disk", "a disk of the guest would be missing"),
            Row(
                "disk-not-shared",
                _B,
                "both have a file of that name, and not the same",
                "the guest would go on with another disk's content",
            ),
            Row(
                "disk-unproven",
                _B,
                "nothing proves that both see the same",
                "another file or disk of the same name would be taken for the guest's",
            ),
            Row(
                "disk-rights",
                _B,
                "the target's QEMU may not open a disk as the guest has it open",
                "it would not start, or not take the disk over at the very end",
            ),
            Row(
                "disk-unreachable",
                _B,
                "its address means something to the source alone",
                "a disk of the guest would be missing, or be another",
            ),
            Row(
                "disk-differs",
                _B,
                "what the guest only reads is another file there",
                "the guest would go on with another disk's content",
            ),
            Row(
                "disk-same",
                _I,
                "what the guest only reads is the same there",
                "the guest only reads it: nothing has to be copied",
            ),
            Row(
                "firmware-missing",
                _B,
                "the target lacks the firmware",
                "the target's QEMU would not start; what belongs to a package is not copied",
            ),
            Row("disk-copied", _I, "a disk travels along", "the copy takes the link meanwhile, and room on the target"),
            Row(
                "disk-not-copied",
                _B,
                "a disk cannot be copied",
                "it would be missing there, or the copy would not be the same",
            ),
            Row("disk-is-shared", _B, "a disk is to be copied onto itself", "it cannot be copied onto itself"),
            Row(
                "disk-exists",
                _B,
                "the target has another file of that name",
                "nothing is overwritten that may be somebody's",
            ),
            Row("disk-folder", _B, "the target lacks the folder, or may not write", "the copy has no place"),
            Row("disk-room", _B, "the target has not enough room", "the copy would fill the disk"),
            Row(
                "file-size-limit",
                _B,
                "files there may not be so large",
                "a QEMU that writes beyond the limit is killed",
            ),
            Row("qemu-img-missing", _B, "the target lacks qemu-img", "no image can be made there"),
            Row(
                "backing-missing",
                _B,
                "what an overlay rests on is not there",
                "the overlay alone means nothing without what it rests on",
            ),
            Row("backing-differs", _B, "what an overlay rests on is another file", "the overlay alone means nothing"),
            Row(
                "disk-cache",
                _W,
                "a disk on network storage is cached by both hosts, and QEMU does not drop the target's cache",
                "the guest would read there what the disk held before",
            ),
            Row(
                "disk-cached",
                _I,
                "a disk on network storage is cached by both hosts, and QEMU drops the target's when it takes over",
                "that is done as well as the kernel can: pages that another program has mapped there would stay",
            ),
        ),
        "Encryption": (
            Row(
                "cannot-encrypt",
                _B,
                "a QEMU without GnuTLS",
                "it can neither encrypt the guest's memory nor prove who it is",
            ),
            Row(
                "authority-expired",
                _B,
                "the certificate authority does not hold",
                "no host believes what it has certified",
            ),
            Row("authority-ends", _W, "it soon ends", "from then on nothing is moved encrypted"),
            Row(
                "clock-forbids", _B, "a host's clock is far off", "by that clock the certificates of a move do not hold"
            ),
            Row(
                "unencrypted",
                _W,
                "`--plaintext`",
                "whoever is on that network can read the guest's memory and disks, and change them; whoever comes "
                "first to the port is believed",
            ),
        ),
        "The way it goes": (
            Row("stands-still", _I, "`--static`", "that is what `--static` means; then its work goes on where it was"),
            Row("switched-off", _I, "`--off`", "that is what `--off` means; what it holds in memory alone is gone"),
            Row("upgrade", _I, "`godwit upgrade`", "its process is replaced, the guest runs on"),
            Row(
                "upgrade-in-place",
                _I,
                "the new QEMU takes the memory as it stands",
                "no memory is copied, and no room is needed for a second copy",
            ),
            Row(
                "upgrade-by-copy",
                _W,
                "the new QEMU cannot",
                "that takes longer than taking it over, and room for a second copy meanwhile",
            ),
        ),
    }
)

ROWS: Final[Mapping[str, Row]] = MappingProxyType({row.code: row for rows in SUBJECTS.values() for row in rows})


def found(code: str, subject: str, what: str, mend: str = "", command: Command | None = None) -> Finding:
    """Return the finding of a row: `what` was found at `subject`, and what mends it.

    Where a command does, `mend` is what is to be said after it.
    """
    row = ROWS[code]
    words = f"{command.text}  (on {command.host}){mend}" if command is not None else mend
    return Finding(code, row.severity, subject, what, row.why, words, command)
