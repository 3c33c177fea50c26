from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path

import pytest

from godwit.errors import HostError
from godwit.hosts import processes
from godwit.hosts.local import LocalTransport
from godwit.hosts.processes import QemuProcess, parse_scan
from godwit.model import Launch, Vm

RECORDED = Path(__file__).parent / "recorded"


def scan_of(name: str, socket: str) -> processes.Scan:
    return parse_scan((RECORDED / f"scan-{name}.txt").read_text(encoding="utf-8"), socket)


def vm(name: str, control: str, *, observe: str | None = None) -> Vm:
    return Vm(name, "h1", Launch(("qemu-system-x86_64",)), control, observe)


def process(*argv: str, pid: int = 7, started: int = 1, folder: str = "/", ended: bool = False) -> QemuProcess:
    return QemuProcess(pid, started, argv, folder, ended)


def of(vm: Vm, *found: QemuProcess, pidfile_pid: int | None = None) -> list[int]:
    seen = processes.Scan(vm.control, found, (), pidfile_pid, None, is_file=False)
    return [one.pid for one in processes.processes_of(vm, seen)]


def test_a_daemon_with_a_relative_socket_is_found_by_the_kernel_s_list() -> None:
    seen = scan_of("one", "/run/a b/one.sock")
    assert seen.pidfile_pid == 73
    assert [found.pid for found in processes.processes_of(vm("one", "/run/a b/one.sock"), seen)] == [73]
    assert not processes.processes_of(vm("one", "/run/other/one.sock"), replace(seen, socket="/x", pidfile_pid=None))


def test_a_socket_with_a_comma_and_a_space_is_found() -> None:
    seen = scan_of("three", "/run/a b/x,y.sock")
    (found,) = processes.processes_of(vm("three", "/run/a b/x,y.sock"), seen)
    assert (found.pid, found.started, found.working_directory) == (87, 277624, "/")
    assert processes.guest_name(found) == "three"
    assert processes.names_socket(found, "/run/a b/x,y.sock")


def test_other_guests_are_not_ours_however_similar_their_command_lines() -> None:
    seen = scan_of("none", "/run/none.sock")
    assert len(seen.processes) == 3
    assert not processes.processes_of(vm("none", "/run/none.sock"), seen)
    assert [found.pid for found in processes.namesakes(vm("two", "/run/none.sock"), seen)] == [80]


def test_a_relative_path_counts_from_the_working_directory() -> None:
    mine = process("qemu-system-x86_64", "-qmp", "unix:./q.sock,server=on", folder="/srv/web1")
    assert of(vm("web1", "/srv/web1/q.sock"), mine) == [7]
    assert of(vm("web1", "/srv/web2/q.sock"), mine) == []


@pytest.mark.parametrize("program", ["/usr/libexec/qemu-kvm", "/usr/bin/kvm", "qemu-system-aarch64", "./qemu"])
def test_programs_that_call_themselves_qemu(program: str) -> None:
    assert of(vm("w", "/q"), process(program, "-qmp", "unix:/q,server")) == [7]


@pytest.mark.parametrize("program", ["sudo", "/bin/sh", "timeout", "strace"])
def test_programs_that_only_mention_it_are_not_the_guest(program: str) -> None:
    assert of(vm("w", "/q"), process(program, "qemu-system-x86_64", "-qmp", "unix:/q,server")) == []


def test_the_observing_socket_proves_it_as_well() -> None:
    assert of(vm("w", "/q", observe="/o"), process("qemu", "-qmp", "unix:/o,server")) == [7]


def test_a_pid_from_a_pidfile_counts_only_with_the_name() -> None:
    mine = process("qemu", "-name", "web1")
    assert of(vm("web1", "/q"), mine, pidfile_pid=7) == [7]
    assert of(vm("web1", "/q"), mine, pidfile_pid=8) == []
    assert of(vm("web1", "/q"), process("vim", "-name", "web1"), pidfile_pid=7) == []


def test_a_zombie_has_ended() -> None:
    assert of(vm("w", "/q"), process("qemu", "-qmp", "unix:/q,server", ended=True)) == []


def test_the_oldest_comes_first() -> None:
    old, new = (process("qemu", "-qmp", "unix:/q", pid=pid, started=at) for pid, at in ((9, 1), (8, 2)))
    assert of(vm("w", "/q"), new, old) == [9, 8]


def test_a_process_name_may_hold_anything() -> None:
    words = base64.b64encode(b"qemu\0-name\0a\xff|b\0").decode()
    stat = "5 (a) | (b) S " + " ".join(str(number) for number in range(1, 50))
    (found,) = parse_scan(f"process|5|{stat}|L3RtcAo=|{words}\nend|\n", "/q").processes
    assert found.argv == ("qemu", "-name", "a\udcff|b")
    assert (found.started, found.working_directory) == (19, "/tmp")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("-name", "web1"), "web1"),
        (("-name", "web1,debug-threads=on"), "web1"),
        (("-name", "guest=web1,process=x"), "web1"),
        (("-name", "process=x,guest=web1"), "web1"),
        (("-m", "64"), None),
    ],
)
def test_names_are_written_in_several_ways(words: tuple[str, ...], name: str | None) -> None:
    assert processes.guest_name(process("qemu", *words)) == name


@pytest.mark.parametrize(
    "line",
    [
        "process|x|9 (q) S 1|Lw==|cQ==",
        "process|9|9 (q S 1|Lw==|cQ==",
        "process|9",
        "pidfile|x",
        "process|9|9 (q) S 1 2 3|Lw==|cQ==",
        "process|9|9 (q) S 1 2 3|!|cQ==",
    ],
)
def test_a_process_that_cannot_be_read_is_no_proof_of_absence(line: str) -> None:
    with pytest.raises(HostError):
        parse_scan(f"{line}\nend|\n", "/run/x.sock")


async def test_a_process_is_read_with_what_it_has_open_and_where_it_may_run() -> None:
    process = QemuProcess(os.getpid(), 0, ("q",), "/")
    before = await processes.read_process(LocalTransport("here"), process)
    pipes = [end for _ in range(50) for end in os.pipe()]
    after = await processes.read_process(LocalTransport("here"), process)
    for end in pipes:
        os.close(end)
    assert 90 <= after.descriptors - before.descriptors <= 110  # some others come and go meanwhile
    assert after.cpus >= os.sched_getaffinity(0)
