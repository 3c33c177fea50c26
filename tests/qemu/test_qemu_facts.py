from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from qemu_recording import Recording

from godwit.model import Bond, DiskFacts, NicFacts, RunState, StrayImage, Tap
from godwit.qemu.facts import guest_facts, nics
from godwit.qemu.features import probe
from godwit.qemu.qom import parse_network
from godwit.qemu.quirks import CORRUPTS_GUEST, has_quirk

MIB = 1 << 20


def added(argv: tuple[str, ...], option: str) -> list[dict[str, object]]:
    pairs = pairwise(argv)
    return [json.loads(value) for name, value in pairs if name == option and value.startswith("{")]


async def test_a_daemon_does_not_find_its_relative_images_again() -> None:
    recording = Recording("seed-style")
    daemon = replace(
        recording.process,
        argv=(*recording.process.argv, "-daemonize"),
        cwd="/",
        environment={"PWD": recording.process.cwd},
    )
    facts = await guest_facts("web1", recording, daemon)
    assert facts.stray_images == (StrayImage("/srv/guests/rhel7.img", "rhel7.img"),)
    assert (await guest_facts("web1", recording, recording.process)).stray_images == ()


async def test_a_seed_style_guest_with_what_was_plugged_in() -> None:
    recording = Recording("seed-style")
    facts = await guest_facts("web1", recording, recording.process)
    assert facts.run_state is RunState.RUNNING
    assert facts.qemu_version == (10, 0, 2)
    assert (facts.machine, facts.accelerator, facts.cpu_model) == ("pc-i440fx-10.0", "tcg", "qemu64")
    assert (facts.memory, facts.vcpus, facts.pid) == (256 * MIB, 2, 4711)
    assert facts.disks == (
        DiskFacts("ide0-hd0", "/srv/guests/rhel7.img", "raw", read_only=False, virtual_size=64 * MIB, direct=False),
        DiskFacts("hpdisk", "/srv/guests/extra.qcow2", "qcow2", read_only=False, virtual_size=32 * MIB, direct=False),
    )
    assert facts.nics == (
        NicFacts("e1000.0", "52:54:00:12:34:56", None),
        NicFacts("hpnic", "52:54:00:12:34:57", None),
    )
    assert [(bond.kind, bond.name) for bond in facts.needs.bonds][-1] == (Bond.USER_NETWORK, "hpn")
    assert (facts.refusals, facts.blockers, facts.inherited_descriptors, facts.libvirt) == ((), (), (), False)
    argv = facts.launch.argv
    assert argv[:5] == ("qemu-system-x86_64", "-machine", "pc-i440fx-10.0", "/srv/guests/rhel7.img", "-smp")
    assert "nic,macaddr=52:54:00:12:34:56" in argv
    (node,) = added(argv, "-blockdev")
    assert node["node-name"] == "hp0"
    assert node["file"] == {
        "driver": "file",
        "read-only": False,
        "cache": {"direct": False, "no-flush": False},
        "filename": "/srv/guests/extra.qcow2",
    }
    disk, nic = added(argv, "-device")
    assert {key: disk[key] for key in ("driver", "id", "bus", "addr", "drive", "serial")} == {
        "driver": "virtio-blk-pci",
        "id": "hpdisk",
        "bus": "pci.0",
        "addr": "04.0",
        "drive": "hp0",
        "serial": "abc",
    }
    assert (nic["addr"], nic["mac"], nic["netdev"]) == ("05.0", "52:54:00:12:34:57", "hpn")
    assert added(argv, "-netdev") == [{"type": "user", "id": "hpn"}]


async def test_a_q35_guest_with_pinned_places() -> None:
    recording = Recording("q35")
    facts = await guest_facts("web1", recording, recording.process)
    argv = facts.launch.argv
    assert facts.refusals == ()
    assert facts.vcpus == 3
    assert "pc-q35-10.0,usb=off" in argv
    assert "virtio-net-pci,netdev=n1,id=a,addr=03.0,bus=pcie.0,mac=52:54:00:12:34:57" in argv
    assert "virtio-rng-pci,addr=05.0,bus=pcie.0" in argv
    assert "user,model=virtio,mac=52:54:00:12:34:56" in argv
    assert argv[argv.index("-cdrom") + 1] == ""
    assert [node["node-name"] for node in added(argv, "-blockdev")] == ["f1", "d1"]
    assert [disk.path for disk in facts.disks if disk.name.startswith("hp")] == [
        "/srv/guests/overlay.qcow2",
        "/srv/guests/extra.qcow2",
    ]
    (thread,) = added(argv, "-object")
    assert (thread["qom-type"], thread["id"]) == ("iothread", "io0")
    devices = {device["id"]: device for device in added(argv, "-device")}
    assert devices["vs"] == {"driver": "virtio-scsi-pci", "id": "vs", "addr": "07.0", "bus": "pcie.0"}
    assert (devices["hp"]["bus"], devices["hp"]["iothread"]) == ("rp1", "io0")
    assert devices["cpu2"]["socket-id"] == 2


async def test_a_device_that_was_unplugged_is_left_out_with_its_backend() -> None:
    recording = Recording("q35")
    rows = recording.reply("qom-list", {"path": "/machine/peripheral"})
    assert isinstance(rows, list)
    recording.change("qom-list", [row for row in rows if row["name"] != "a"], {"path": "/machine/peripheral"})
    said = str(recording.reply("human-monitor-command", {"command-line": "info network"}))
    kept = [line for line in said.splitlines() if not line.startswith(("a:", " \\ n1:"))]
    recording.change("human-monitor-command", "\r\n".join(kept), {"command-line": "info network"})
    facts = await guest_facts("web1", recording, recording.process)
    assert not [word for word in facts.launch.argv if "n1" in word]
    assert facts.refusals == (
        "a device was unplugged, and another one has no option that could keep it in its place (-drive if=virtio)",
    )


async def test_a_snapshot_taken_while_the_guest_ran_is_noticed() -> None:
    recording = Recording("seed-style")
    rows = recording.reply("query-block")
    assert isinstance(rows, list)
    rows[0]["inserted"]["file"] = "/srv/guests/snapshot.qcow2"
    facts = await guest_facts("web1", recording, recording.process)
    assert facts.refusals == (
        "the disk ide0-hd0 is /srv/guests/snapshot.qcow2 by now, which its command line does not name",
    )


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"drv": "luks"}, "has the driver luks"),
        ({"file": 'json:{"driver":"raw","offset":512}'}, "options that QEMU tells only in part"),
        ({"encrypted": True}, "is encrypted"),
    ],
)
async def test_a_disk_that_cannot_be_written_down_is_refused(change: dict[str, object], refusal: str) -> None:
    recording = Recording("seed-style")
    rows = recording.reply("query-named-block-nodes", {"flat": True})
    assert isinstance(rows, list)
    next(row for row in rows if row["node-name"] == "hp0").update(change)
    facts = await guest_facts("web1", recording, recording.process)
    assert refusal in facts.refusals[0]
    assert not added(facts.launch.argv, "-blockdev")


async def test_forwarded_ports_of_a_plugged_user_network_are_not_guessed() -> None:
    recording = Recording("seed-style")
    recording.change("human-monitor-command", "TCP[HOST_FORWARD]  12  127.0.0.1 2222", {"command-line": "info usernet"})
    facts = await guest_facts("web1", recording, recording.process)
    assert "the network backend hpn is of type user" in facts.refusals[0]


async def test_a_command_line_that_cannot_be_read_is_refused_whole() -> None:
    recording = Recording("seed-style")
    process = replace(recording.process, argv=("q", "-zork"))
    facts = await guest_facts("web1", recording, process)
    assert facts.refusals == ("its command line cannot be read: -zork is no option of QEMU that Godwit knows",)
    assert facts.launch.argv == ("q", "-zork")


async def test_plugged_memory_under_tcg_is_refused() -> None:
    recording = Recording("seed-style")
    recording.change("query-memory-size-summary", {"base-memory": 256 * MIB, "plugged-memory": 128 * MIB})
    facts = await guest_facts("web1", recording, recording.process)
    assert facts.memory == 384 * MIB
    assert "plugged-in memory" in facts.refusals[0]


async def test_features_are_introspected() -> None:
    features = await probe(Recording("q35"))
    assert {"migrate-incoming", "announce-self"} <= features.commands
    assert {"multifd", "postcopy-ram", "events"} <= features.capabilities
    assert {"downtime-limit", "max-bandwidth"} <= features.parameters


def test_nics_find_their_taps_directly_and_over_a_hub() -> None:
    said = (
        "hub 0\r\n"
        " \\ hub0port1: tap.0: index=0,type=tap,ifname=tap0,script=/etc/qemu-ifup,downscript=/etc/qemu-ifdown\r\n"
        " \\ hub0port0: e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\r\n"
        "nic1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:01\r\n"
        " \\ net1: index=0,type=tap,ifname=gw1,script=no,downscript=no\r\n"
    )
    clients = {client.name: client for client in parse_network(said)}
    assert list(nics(clients)) == [
        NicFacts("e1000.0", "52:54:00:12:34:56", Tap("tap0", "")),
        NicFacts("nic1", "52:54:00:00:00:01", Tap("gw1", "")),
    ]


@pytest.mark.parametrize(
    ("version", "accelerator", "expected"),
    [((7, 2, 22), "tcg", True), ((8, 2, 0), "tcg", False), ((7, 2, 22), "kvm", False)],
)
def test_quirks_go_by_version_and_accelerator(
    version: tuple[int, int, int], accelerator: str, *, expected: bool
) -> None:
    assert has_quirk(CORRUPTS_GUEST, version, accelerator) is expected


async def test_a_tpm_is_refused_by_name_since_its_state_is_elsewhere() -> None:
    recording = Recording("q35")
    tpm = {"id": "tpm0", "model": "tpm-crb", "options": {"type": "emulator", "data": {"chardev": "chrtpm"}}}
    recording.change("query-tpm", [tpm])
    facts = await guest_facts("web", recording, recording.process)
    (refusal,) = facts.refusals
    assert "TPM tpm0 (emulator)" in refusal
    assert "swtpm" in refusal


async def test_flash_is_told_from_other_disks() -> None:
    recording = Recording("q35")
    rows = recording.reply("query-block")
    assert isinstance(rows, list)
    inserted = next(row["inserted"] for row in rows if "inserted" in row)
    for name, qdev in (("pflash1", "/machine/system.flash1"), ("", "/machine/system.flash0")):
        recording.change("query-block", [{"device": name, "qdev": qdev, "inserted": inserted}])
        facts = await guest_facts("web", recording, recording.process)
        assert facts.disks[0].firmware
