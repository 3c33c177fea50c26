"""Laboratories as they are used: built, entered, shaped, broken and mended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from godwit.errors import InputError, LabError
from godwit.lab import namespaces
from godwit.lab.laboratory import LabMachine, Laboratory
from godwit.lab.plan import LabPlan

if TYPE_CHECKING:
    from collections.abc import Callable

lab_test = pytest.mark.lab


def output(lab: Laboratory, machine: str, *argv: str) -> str:
    done = subprocess.run(lab.command(machine, argv), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()


def ssh(machine: LabMachine, *argv: str) -> subprocess.CompletedProcess[str]:
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "ConnectTimeout=5"]
    options += [f"UserKnownHostsFile={machine.known_hosts}", f"IdentityFile={machine.key_file}"]
    command = ["ssh", "-F", "none", *(part for option in options for part in ("-o", option))]
    command += [f"{machine.ssh_user}@{machine.ssh_address}", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


class Receiver:
    """A TCP server inside a machine that counts bytes; started, it prints `ready`, then one line for each second."""

    PROGRAM = """
import json, socket, sys, time
server = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
peer, _ = server.accept()
first, count = None, 0
while chunk := peer.recv(1 << 20):
    first = first or time.monotonic()
    count += len(chunk)
    if len(sys.argv) > 2:
        print(count, flush=True)
print(json.dumps({"bytes": count, "seconds": time.monotonic() - first}))
"""

    def __init__(self, lab: Laboratory, host: str, *options: str) -> None:
        self.address = lab.plan.migration_address(host)
        argv = lab.command(host, ["python3", "-c", self.PROGRAM, self.address, *options])
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def result(self) -> dict[str, float]:
        text, _ = self.process.communicate(timeout=30)
        answer: dict[str, float] = json.loads(text.splitlines()[-1])
        return answer


SENDER = """
import socket, sys
peer = socket.create_connection((sys.argv[1], 5000))
for _ in range(int(sys.argv[2])):
    peer.sendall(bytes(1 << 20))
peer.close()
"""

TICKER = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], 5000))
for tick in range(int(sys.argv[2])):
    peer.sendall(b"x")
    time.sleep(0.02)  # the pace of the ticks
peer.close()
"""


@lab_test
def test_each_machine_is_a_host_of_its_own(lab: Laboratory) -> None:
    for machine in ("host1", "host2", "client"):
        assert output(lab, machine, "hostname") == machine
        assert output(lab, machine, "cat", "/etc/hostname") == machine
        assert "hostinit.sh" in output(lab, machine, "cat", "/proc/1/cmdline")
    assert output(lab, "host1", "cat", "/etc/machine-id") != output(lab, "host2", "cat", "/etc/machine-id")
    assert output(lab, "host1", "ls", "/sys/class/net").split() == ["br0", "lo", "mig0", "uplink0"]
    assert "nsfs" not in output(lab, "host1", "cat", "/proc/self/mountinfo"), "it keeps others' namespaces alive"


@lab_test
def test_private_folders_do_not_reach_the_machine_or_the_neighbour(lab: Laboratory) -> None:
    mark = f"mark-{lab.name}"
    for folder in ("/etc", "/run", "/tmp", "/var/tmp", "/root", "/var/lib", "/mnt", "/dev/shm"):
        output(lab, "host1", "touch", f"{folder}/{mark}")
        assert not Path(folder, mark).exists()
        assert mark not in output(lab, "host2", "ls", "-a", folder).split()


@lab_test
def test_exec_passes_streams_and_status(lab: Laboratory, capfd: pytest.CaptureFixture[str]) -> None:
    assert lab.exec("host2", ["sh", "-c", 'echo "$HOSTNAME $WORD"; exit 7'], {"WORD": "a b;c"}) == 7
    assert capfd.readouterr().out == "host2 a b;c\n"
    assert lab.exec("host1", ["sh", "-c", "kill -KILL $$"]) == 128 + signal.SIGKILL
    assert lab.exec("host1", ["true"]) == 0


@lab_test
def test_a_command_ends_with_the_process_that_started_it(lab: Laboratory) -> None:
    argv = lab.command("host1", ["sh", "-c", "echo $$; exec sleep 1000"])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    inner = process.stdout.readline().strip()
    process.kill()
    assert process.stdout.read() == ""  # end of file: nobody holds the pipe any more
    process.wait(10)
    process.stdout.close()
    output(lab, "host1", "timeout", "10", "tail", f"--pid={inner}", "-f", "/dev/null")  # returns once it is gone


@lab_test
def test_ssh_with_strict_host_keys(lab: Laboratory) -> None:
    for machine in (*lab.hosts.values(), lab.client):
        done = ssh(machine, "hostname; id -u; command -v ip")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[:2] == [machine.name, "0"]
    wrong = ssh(lab.hosts["host1"], "-p", "1", "true")
    assert wrong.returncode != 0


@lab_test
def test_ssh_refuses_a_foreign_key(lab: Laboratory, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    host = lab.hosts["host1"]
    foreign = LabMachine(
        host.name,
        host.ssh_address,
        host.ssh_port,
        host.ssh_user,
        tmp_path / "key",
        host.known_hosts,
        host.migration_address,
        host.namespace,
        host.images,
        host.log,
    )
    done = ssh(foreign, "true")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


@lab_test
def test_the_networks_reach_whom_they_should(lab: Laboratory) -> None:
    plan = lab.plan
    for source, target in (
        ("client", plan.management_address("host1")),
        ("host1", plan.management_address("client")),
        ("host1", plan.migration_address("host2")),
        ("host2", plan.controller_address),
    ):
        assert lab.exec(source, ["ping", "-q", "-c1", "-W2", target]) == 0
    assert lab.exec("client", ["ping", "-q", "-c1", "-W1", plan.migration_address("host1")]) != 0


@lab_test
def test_shared_storage_is_the_same_folder(lab: Laboratory) -> None:
    output(lab, "host1", "sh", "-c", "echo hello >/mnt/images/shared-file")
    assert output(lab, "host2", "cat", "/mnt/images/shared-file") == "hello"
    assert (lab.images("host1") / "shared-file").read_text() == "hello\n"
    numbers = {output(lab, host, "stat", "-c", "%d:%i", "/mnt/images/shared-file") for host in lab.hosts}
    assert len(numbers) == 1


@lab_test
def test_private_storage_is_not(build_lab: Callable[..., Laboratory]) -> None:
    lab = build_lab(shared_storage=False)
    output(lab, "host1", "touch", "/mnt/images/mine")
    assert output(lab, "host2", "ls", "/mnt/images") == ""
    assert (lab.images("host1") / "mine").exists()


@lab_test
@pytest.mark.parametrize("rate", [400_000_000, 100_000_000])
def test_the_migration_link_is_shaped(lab: Laboratory, rate: int) -> None:
    lab.set_rate(rate)
    try:
        receiver = Receiver(lab, "host2")
        output(lab, "host1", "python3", "-c", SENDER, receiver.address, str(rate // 16_000_000))
        result = receiver.result()
    finally:
        lab.set_rate(400_000_000)
    measured = result["bytes"] * 8 / result["seconds"]
    assert rate * 0.85 < measured < rate * 1.15
    assert lab.status().link_rate == 400_000_000


@lab_test
def test_the_management_network_is_not_shaped(lab: Laboratory) -> None:
    assert "tbf" not in output(lab, "host1", "tc", "qdisc", "show", "dev", "br0")
    assert "tbf" in output(lab, "host1", "tc", "qdisc", "show", "dev", "mig0")


@lab_test
def test_a_cut_link_stalls_a_connection_and_healing_lets_it_go_on(lab: Laboratory) -> None:
    receiver = Receiver(lab, "host2", "verbose")
    with subprocess.Popen(lab.command("host1", ["python3", "-c", TICKER, receiver.address, "100"])) as ticker:
        assert int(receiver.line()) > 0
        lab.cut("host1", "migration")
        assert {row.name: row.cut for row in lab.status().machines}["host1"] == {"migration"}
        assert lab.exec("host1", ["ping", "-q", "-c1", "-W1", receiver.address]) != 0
        assert lab.exec("host1", ["cat", "/sys/class/net/mig0/carrier"]) == 0
        assert ssh(lab.hosts["host1"], "true").returncode == 0
        assert ticker.poll() is None
        lab.heal("host1", "migration")
        assert ticker.wait(30) == 0
    assert receiver.result()["bytes"] == 100
    assert all(not row.cut for row in lab.status().machines)


@lab_test
def test_a_cut_of_the_management_link_leaves_the_migration_link(lab: Laboratory) -> None:
    plan = lab.plan
    lab.cut("host1", "management")
    assert lab.exec("client", ["ping", "-q", "-c1", "-W1", plan.management_address("host1")]) != 0
    assert lab.exec("host2", ["ping", "-q", "-c1", "-W2", plan.migration_address("host1")]) == 0
    lab.heal("host1")
    assert lab.exec("client", ["ping", "-q", "-c1", "-W2", plan.management_address("host1")]) == 0


@lab_test
def test_crash_and_restart(lab: Laboratory) -> None:
    output(lab, "host1", "sh", "-c", "echo kept >/var/lib/kept; echo lost >/run/lost; echo lost >/etc/lost")
    machine_id = output(lab, "host1", "cat", "/etc/machine-id")
    receiver = Receiver(lab, "host1")
    lab.crash("host1")
    assert receiver.process.wait(10) != 0
    assert receiver.process.stdout is not None
    receiver.process.stdout.close()
    status = {row.name: row for row in lab.status().machines}
    assert (status["host1"].up, status["host1"].pid, status["host2"].up) == (False, None, True)
    assert ssh(lab.hosts["host1"], "true").returncode == 255
    with pytest.raises(LabError, match="has crashed"):
        lab.command("host1", ["true"])
    with pytest.raises(LabError, match="has crashed"):
        lab.crash("host1")
    lab.restart("host1")
    assert output(lab, "host1", "cat", "/var/lib/kept", "/etc/machine-id").split() == ["kept", machine_id]
    assert output(lab, "host1", "find", "/run", "/etc", "-name", "lost") == ""
    assert ssh(lab.hosts["host1"], "hostname").stdout == "host1\n"
    assert "rate 400Mbit" in output(lab, "host1", "tc", "qdisc", "show", "dev", "mig0")
    with pytest.raises(LabError, match="is up"):
        lab.restart("host1")


@lab_test
def test_a_silent_crash_closes_no_connection(lab: Laboratory) -> None:
    receiver = Receiver(lab, "host2")
    argv = lab.command("host1", ["python3", "-c", TICKER, receiver.address, "100000"])
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as ticker:
        assert "ESTAB" in _wait_for_connection(lab, receiver.address)
        lab.crash("host1", silent=True)
        assert ticker.wait(10) != 0
    assert receiver.process.poll() is None
    assert "ESTAB" in output(lab, "host2", "ss", "-Htn", "src", receiver.address)
    assert {row.name: row.cut for row in lab.status().machines}["host1"] == {"management", "migration"}
    lab.restart("host1")
    assert lab.exec("host1", ["ping", "-q", "-c1", "-W2", receiver.address]) == 0
    receiver.process.terminate()
    receiver.process.communicate(timeout=10)


def _wait_for_connection(lab: Laboratory, address: str) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if text := output(lab, "host2", "ss", "-Htn", "state", "established", "src", address):
            return f"ESTAB {text}"
    return ""


@lab_test
def test_orphans_are_reaped(lab: Laboratory) -> None:
    output(lab, "host1", "sh", "-c", "for i in 1 2 3 4 5; do setsid sh -c 'sleep 0.05 & exit' & done; wait; sleep 0.3")
    assert "Z" not in output(lab, "host1", "ps", "-eo", "stat=")


@lab_test
def test_qemu_runs_and_its_tap_joins_the_bridge(lab: Laboratory) -> None:
    assert "QEMU emulator version" in output(lab, "host1", "qemu-system-x86_64", "--version")
    mac = output(lab, "host1", "cat", "/sys/class/net/br0/address")
    argv = ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "32", "-S", "-display", "none", "-daemonize"]
    argv += ["-net", "nic", "-net", "tap", "-pidfile", "/run/q.pid", "-qmp", "unix:/run/q.qmp,server=on,wait=off"]
    assert lab.exec("host1", argv) == 0
    row = lab.status().machines[0]
    assert [qemu.arguments for qemu in row.qemus] == [tuple(argv)]
    ports = output(lab, "host1", "ls", "/sys/class/net/br0/brif").split()
    assert ports == ["tap0", "uplink0"]
    assert output(lab, "host1", "cat", "/sys/class/net/br0/address") == mac
    output(lab, "host1", "sh", "-c", "kill $(cat /run/q.pid); tail --pid=$(cat /run/q.pid) -f /dev/null")
    assert lab.status().machines[0].qemus == ()
    assert output(lab, "host1", "ls", "/sys/class/net/br0/brif").split() == ["uplink0"]


@lab_test
def test_another_user_is_told_whose_it_is(lab: Laboratory) -> None:
    program = "import os, sys; os.setuid(65534); from godwit.lab.laboratory import Laboratory as L; L.load(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", f"import godwit.lab.laboratory; {program}", lab.name],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "belongs to root" in done.stderr


@lab_test
def test_unknown_machines_are_refused(lab: Laboratory) -> None:
    for action in (lab.crash, lab.restart, lab.cut, lab.heal):
        with pytest.raises(InputError, match="no host 'host9'"):
            action("host9")
    with pytest.raises(InputError):
        lab.set_rate(5)


def test_without_root_the_message_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root") as caught:
        Laboratory.up(LabPlan("demo"), None)
    assert "sudo" in caught.value.remedy


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespaces, "SEARCH_PATH", "/nonexistent")
    with pytest.raises(LabError, match="needs ip,") as caught:
        namespaces.check_machine()
    assert "iproute2" in caught.value.remedy


def test_a_process_is_more_than_its_pid() -> None:
    me = namespaces.ProcessId.of(os.getpid())
    assert me.alive()
    assert not namespaces.ProcessId(me.pid, me.start_time + 1).alive()
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        other = namespaces.ProcessId.of(sleeper.pid)
        assert namespaces.kill([namespaces.ProcessId(other.pid, other.start_time + 1)])
        assert other.alive()
        assert namespaces.kill([other])
        assert not other.alive()  # a zombie by now
