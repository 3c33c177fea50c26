"""A plain host over real sshd with a real QEMU: laboratory hosts in namespaces."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh
import pytest

from godwit.errors import (
    HostError,
    HostKeyError,
    HostUnreachableError,
    MonitorBusyError,
    MonitorLostError,
    QemuDiedError,
    QemuMissingError,
)
from godwit.hosts.connect import open_host
from godwit.hosts.hostfacts import ask_sections
from godwit.lab import assets
from godwit.lab.laboratory import Laboratory
from godwit.lab.plan import LabPlan
from godwit.model import BridgeFacts, HostRecord, Launch, Port, RunState, Tap, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from godwit.hosts.plain import PlainHost

pytestmark = pytest.mark.lab

MACHINE = "pc-q35-10.0"
NASTY = ("a b", "'", '"', ";id", "$(id)", "`id`", "*", "line\nbreak", "", "äß漢", "-n", "\\", "!x", "\udcff")


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    named = os.environ.get("GODWIT_LAB_HOST_TREE")
    tree = Path(named) if named else assets.prepare(assets.cache_folder(), print).hosttree
    laboratory = Laboratory.up(LabPlan(f"test-{secrets.token_hex(4)}"), host_tree=tree)
    yield laboratory
    laboratory.down()


def record(lab: Laboratory, name: str = "host1") -> HostRecord:
    machine = lab.hosts[name]
    return HostRecord(
        name=name,
        url=f"ssh://{machine.ssh_user}@{machine.ssh_address}",
        identity_file=str(machine.key_file),
        known_hosts=str(machine.known_hosts),
        use_agent=False,
        migration_address=machine.migration_address or "",
    )


def other_port(lab: Laboratory, address: str) -> Path:
    """Return known hosts that believe the host's key on port 2222, too."""
    known = lab.hosts["host1"].known_hosts.read_text(encoding="utf-8").split()[1:3]
    file = lab.images("host1") / "known"
    file.write_text(f"[{address}]:2222 {' '.join(known)}\n", encoding="utf-8")
    return file


@asynccontextmanager
async def host(lab: Laboratory, name: str = "host1") -> AsyncIterator[PlainHost]:
    plain = open_host(record(lab, name))
    try:
        yield plain
    finally:
        await plain.close()


def guest(name: str, *extra: str, bridge: str = "br0") -> Vm:
    folder = f"/run/godwit/{name}"
    control, observe, pidfile = (f"{folder}/{kind}" for kind in ("control", "observe", "pid"))
    tap = Tap(f"tap-{name}", bridge)
    words = (
        "-accel",
        "tcg",
        "-machine",
        MACHINE,
        "-m",
        "64",
        "-nodefaults",
        "-display",
        "none",
        "-name",
        f"guest={name}",
    )
    sockets = [word for path in (control, observe) for word in ("-qmp", f"unix:{path},server=on,wait=off")]
    nic = ("-netdev", f"tap,id=n,ifname={tap.interface},script=no,downscript=no", "-device", "virtio-net-pci,netdev=n")
    argv = ("qemu-system-x86_64", *words, *sockets, *nic, "-pidfile", pidfile, *extra)
    launch = Launch(argv, "/", (folder,), (tap,))
    return Vm(name, "host1", launch, control, observe, pidfile=pidfile, log=f"{folder}/log")


@asynccontextmanager
async def running(plain: PlainHost, vm: Vm) -> AsyncIterator[int]:
    await plain.prepare_launch(vm, vm.launch)
    try:
        yield await plain.launch(vm, vm.launch)
    finally:
        await plain.destroy(vm)


async def test_arguments_cross_openssh_unchanged(lab: Laboratory) -> None:
    async with host(lab) as plain:
        completed = await plain.run(["printf", "%s\\0", *NASTY])
        assert completed.stdout.decode(errors="surrogateescape").split("\0")[:-1] == list(NASTY)
        results = await asyncio.gather(*(plain.run(["echo", str(number)]) for number in range(25)))
        assert [int(result.stdout) for result in results] == list(range(25)), "more at once than sshd's MaxSessions"


async def test_facts_of_a_laboratory_host(lab: Laboratory) -> None:
    async with host(lab) as plain:
        facts = await plain.facts()
        assert facts.qemu is not None
        assert facts.qemu.version >= (8, 2, 0)
        assert MACHINE in facts.qemu.machine_types
        assert facts.bridges == (BridgeFacts("br0", 1500, up=True),)
        assert (facts.name, facts.hostname) == ("host1", "host1")
        assert "tcg" in facts.accelerators
        assert facts.migration_address == lab.hosts["host1"].migration_address
        assert facts.can_shorten_send_queue
        assert abs(facts.clock_offset) <= facts.clock_uncertainty < 0.2, "it is the same machine's clock"
        began = time.monotonic()
        again = await plain.facts()
        assert time.monotonic() - began < 1.5, "what is expensive to find out is kept on the host"
        assert (again.qemu, again.accelerators, again.notes) == (facts.qemu, facts.accelerators, facts.notes)
        assert (await plain.facts("qemu-system-none")).qemu is None


async def test_the_probe_of_an_accelerator_tells_one_that_runs_a_guest(lab: Laboratory) -> None:
    """Nothing here runs KVM, so the same probe is shown to succeed with TCG."""
    async with host(lab) as plain:
        said = await ask_sections(plain._transport, None, "tcg")
        assert said["kvm"] == "works"


@pytest.mark.parametrize("extra", [(), ("-daemonize",)], ids=["foreground", "daemonized"])
async def test_a_guest_s_whole_life(lab: Laboratory, extra: tuple[str, ...]) -> None:
    vm = guest("life", *extra)
    async with host(lab) as plain:
        assert (await plain.observe(vm)).state is RunState.ABSENT
        async with running(plain, vm) as pid:
            view = await plain.observe(vm)
            assert (view.state, view.pid) == (RunState.RUNNING, pid)
            attached = await plain.attach(vm)
            assert (await plain.observe(vm)).state is RunState.RUNNING, "through the other socket"
            await attached.pause()
            assert (await plain.observe(vm)).state is RunState.PAUSED
            facts = await attached.facts()
            assert facts.machine == MACHINE
            assert facts.nics[0].tap == Tap("tap-life", "br0", Port())
            assert facts.pid == pid
            await attached.close()
            again = await plain.attach(vm)
            await again.quit()
            await again.close()
            assert (await plain.observe(vm)).state is RunState.ABSENT
        links = await plain.run(["ip", "-br", "link"])
        assert b"tap-life" not in links.stdout
        left = await plain.run(["ls", "/run/godwit/life"])
        assert left.stdout.split() == [b"log"]
        await plain.destroy(vm)


async def test_qemu_outlives_the_connection_that_started_it(lab: Laboratory) -> None:
    vm = guest("stays")
    async with host(lab) as plain:
        await plain.prepare_launch(vm, vm.launch)
        pid = await plain.launch(vm, vm.launch)
    async with host(lab) as plain:
        assert (await plain.observe(vm)).pid == pid
        found = await plain.find_qemu(vm.control)
        assert found.pid == pid
        assert found.argv == vm.launch.argv
        await plain.destroy(vm)


async def test_an_incoming_guest_is_told_apart(lab: Laboratory) -> None:
    vm = guest("incoming", "-incoming", "defer", "-S")
    async with host(lab) as plain, running(plain, vm):
        assert (await plain.observe(vm)).state is RunState.INCOMING


async def test_the_tap_is_up_and_plugged_with_the_bridge_s_mtu(lab: Laboratory) -> None:
    vm = guest("tapped", bridge="br7")
    async with host(lab) as plain:
        with pytest.raises(HostError, match="has no bridge br7, which the guest's interface tap-tapped"):
            await plain.prepare_launch(vm, vm.launch)
        await plain.run(["ip", "link", "add", "br7", "mtu", "1400", "type", "bridge"])
        await plain.run(["ip", "link", "set", "br7", "mtu", "1400", "up"])
        await plain.prepare_launch(vm, vm.launch)
        await plain.prepare_launch(vm, vm.launch)
        shown = (await plain.run(["ip", "-br", "-d", "link", "show", "tap-tapped"])).stdout.decode()
        detail = (await plain.run(["ip", "link", "show", "tap-tapped"])).stdout.decode()
        assert "mtu 1400" in detail
        assert "master br7" in detail
        assert "UP" in shown
        await plain.destroy(vm)
        assert (await plain.run(["ip", "link", "show", "tap-tapped"], check=False)).status != 0
        await plain.destroy(replace(vm, launch=replace(vm.launch, taps=(Tap("br7", "br7"),))))
        await plain.run(["ip", "link", "del", "br7"])  # it is no tap, so it was left alone


async def test_a_qemu_that_ends_at_once_is_quoted(lab: Laboratory) -> None:
    async with host(lab) as plain:
        for extra, words in (
            (("-drive", "file=/none.img,if=virtio"), "Could not open '/none.img'"),
            (("-machine", "pc-q35-99.9"), "unsupported machine"),
            (("-device", "nonsense", "-daemonize"), "not a valid device"),
            (("-accel", "kvm", "-cpu", "nonsense"), "nonsense"),
        ):
            vm = guest("dies", *extra)
            await plain.prepare_launch(vm, vm.launch)
            with pytest.raises(QemuDiedError, match=words):
                await plain.launch(vm, vm.launch)
            await plain.destroy(vm)
        vm = guest("dies")
        with pytest.raises(QemuMissingError):
            await plain.launch(vm, replace(vm.launch, argv=("qemu-system-none",)))


async def test_a_tap_of_another_guest_is_named(lab: Laboratory) -> None:
    first, second = guest("one"), guest("two")
    second = replace(
        second,
        launch=replace(second.launch, argv=tuple(word.replace("tap-two", "tap-one") for word in second.launch.argv)),
    )
    async with host(lab) as plain, running(plain, first):
        await plain.prepare_launch(second, second.launch)
        with pytest.raises(QemuDiedError, match="busy") as caught:
            await plain.launch(second, second.launch)
        assert "another guest has this tap" in caught.value.remedy
        await plain.destroy(second)


async def test_a_stopped_qemu_is_unreachable_with_its_pid(lab: Laboratory) -> None:
    vm = guest("stopped")
    async with host(lab) as plain, running(plain, vm) as pid:
        await plain.run(["kill", "-STOP", str(pid)])
        began = time.monotonic()
        view = await plain.observe(vm)
        assert time.monotonic() - began < 5
        assert (view.state, view.pid) == (RunState.UNREACHABLE, pid)
        with pytest.raises(MonitorBusyError):
            await plain.attach(vm)
        await plain.run(["kill", "-CONT", str(pid)])
        assert (await plain.observe(vm)).state is RunState.RUNNING, "no forwarded channel was left behind"


async def test_two_leases_share_the_send_queue_and_the_last_one_restores_it(lab: Laboratory) -> None:
    knob = ["cat", "/proc/sys/net/ipv4/tcp_notsent_lowat"]
    async with host(lab) as plain, host(lab) as other:
        before = (await plain.run(knob)).stdout
        assert all(await asyncio.gather(plain.shorten_send_queue("m1", 65536), other.shorten_send_queue("m2", 131072)))
        assert (await plain.run(knob)).stdout == b"65536\n"
        await plain.restore_send_queue("m1")
        assert (await plain.run(knob)).stdout == b"131072\n"
        await plain.restore_send_queue("m1")
        await plain.run(["sh", "-c", "echo '1 4096' > /run/godwit/send-queue/leases/dead"])
        await asyncio.gather(other.restore_send_queue("m2"), plain.restore_send_queue("m2"))
        assert (await plain.run(knob)).stdout == before, "a lease from 1970 holds nothing"
        for number in range(20):
            await asyncio.gather(
                plain.shorten_send_queue(f"a{number}", 1000), other.shorten_send_queue(f"b{number}", 2000)
            )
        await asyncio.gather(*(plain.restore_send_queue(f"a{number}") for number in range(20)))
        assert (await plain.run(knob)).stdout == b"2000\n"
        await asyncio.gather(*(other.restore_send_queue(f"b{number}") for number in range(20)))
        assert (await plain.run(knob)).stdout == before


async def test_where_the_knob_is_read_only_the_answer_is_no(lab: Laboratory) -> None:
    async with host(lab) as plain:
        knob = "/proc/sys/net/ipv4/tcp_notsent_lowat"
        await plain.run(["sh", "-c", f"mount --bind {knob} {knob} && mount -o remount,ro,bind {knob}"])
        try:
            assert not (await plain.facts()).can_shorten_send_queue
            assert not await plain.shorten_send_queue("m1", 65536)
            await plain.restore_send_queue("m1")
        finally:
            await plain.run(["umount", knob])


async def test_a_shared_disk_is_proven_and_a_copy_of_it_is_not(lab: Laboratory) -> None:
    async with host(lab) as one, host(lab, "host2") as two:
        for path, shared in (("/mnt/images/disk.img", True), ("/var/lib/disk.img", False)):
            await asyncio.gather(*(plain.run(["truncate", "-s", "1M", path]) for plain in (one, two)))
            await one.plant_token(path, "token")
            found, identity = await two.find_token(path)
            assert (found == "token") is shared
            assert (identity == (await one.find_token(path))[1]) is shared or not shared
            await one.remove_token(path, "token")


async def test_paths_between_hosts_are_told_apart(lab: Laboratory) -> None:
    address = lab.hosts["host2"].migration_address or ""
    async with host(lab) as plain:
        assert await plain.reaches(address, 22)
        assert await plain.reaches(address, await plain.free_port())
        lab.cut("host2", "migration")
        try:
            began = time.monotonic()
            assert not await plain.reaches(address, 22)
            assert time.monotonic() - began < 6
        finally:
            lab.heal("host2", "migration")


async def test_an_sshd_that_forwards_nothing_is_named(lab: Laboratory) -> None:
    """A second sshd on the same host, without any forwarding."""
    script = (
        "sed -e '/orwarding/d' /etc/godwit-lab/sshd_config > /run/other.conf; "
        "echo 'DisableForwarding yes' >> /run/other.conf; /usr/sbin/sshd -f /run/other.conf -p 2222"
    )
    async with host(lab) as plain:
        await plain.run(["sh", "-c", script])
        key = record(lab)
        address = lab.hosts["host1"].ssh_address
        file = other_port(lab, address)
        other = open_host(replace(key, url=f"{key.url}:2222", known_hosts=str(file)))
        vm = guest("walled")
        async with running(plain, vm) as pid:
            with pytest.raises(MonitorLostError, match="nothing accepts") as caught:
                await other.attach(vm)
            assert "AllowStreamLocalForwarding yes" in caught.value.remedy
            view = await other.observe(vm)
            assert (view.state, view.pid) == (RunState.UNREACHABLE, pid)
        assert await other.reaches(address, 22), "bash can tell"
        assert await other.reaches(address, 23)
        await other.close()


async def test_a_changed_host_key_is_refused(lab: Laboratory) -> None:
    wrong = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    file = lab.images("host1") / "wrong"
    file.write_text(f"{lab.hosts['host1'].ssh_address} {wrong}", encoding="utf-8")
    plain = open_host(replace(record(lab), known_hosts=str(file)))
    with pytest.raises(HostKeyError, match="HAS CHANGED"):
        await plain.connect()
    assert (await plain.observe(guest("x"))).state is RunState.UNREACHABLE
    await plain.close()


@pytest.mark.parametrize("silent", [False, True])
async def test_a_crashed_host_is_noticed(lab: Laboratory, silent: bool) -> None:  # noqa: FBT001  # a parameter of the test
    vm = guest("lost")
    async with host(lab, "host2") as plain:
        await plain.prepare_launch(vm, vm.launch)
        await plain.launch(vm, vm.launch)
        attached = await plain.attach(vm)
        events = attached.events()
        lab.crash("host2", silent=silent)
        began = time.monotonic()
        kinds = [event.kind async for event in events]
        assert kinds[-1] == "LOST"
        assert time.monotonic() - began < 4.5
        view = await plain.observe(vm)
        assert view.state is RunState.UNREACHABLE
        assert "host2" in view.detail
        with pytest.raises(HostUnreachableError):
            await plain.run(["true"])
        await attached.close()
        lab.restart("host2")
        lab.heal("host2", "all")
        assert (await plain.observe(vm)).state is RunState.ABSENT, "the same host object finds the way back"
