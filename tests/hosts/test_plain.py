"""A plain host on this machine, with programs that look like QEMUs: no privileges, no hypervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from godwit.errors import (
    BusyError,
    HostError,
    HypervisorError,
    InputError,
    MonitorBusyError,
    MonitorProtocolError,
    QemuDiedError,
    QemuMissingError,
    RemoteCommandError,
)
from godwit.hosts.connect import open_host
from godwit.model import HostRecord, Launch, RunState, Tap, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from godwit.hosts.plain import PlainHost

NAME = f"web-{os.getpid()}"
"""Of this run alone: guests are told apart by name, and others may run on this machine."""

DOUBLE = Path(__file__).with_name("qemudouble.py")


@pytest.fixture
def here() -> PlainHost:
    return open_host(HostRecord("here", "local"))


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Path]:
    program = tmp_path / "qemu-system-double"
    program.symlink_to(Path(sys.executable).resolve())
    yield program
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == os.fsencode(program):
            os.kill(int(process.name), signal.SIGKILL)


def guest(qemu: Path, *extra: str, name: str = NAME) -> Vm:
    folder = qemu.parent / "run dir"
    sockets = [str(folder / f"{name}.{kind}") for kind in ("qmp", "observe")]
    options = [word for path in sockets for word in ("-qmp", f"unix:{path},server=on,wait=off")]
    pidfile = str(folder / f"{name}.pid")
    argv = (str(qemu), "-I", "-S", str(DOUBLE), "-name", f"guest={name}", *options, "-pidfile", pidfile, *extra)
    launch = Launch(argv, str(qemu.parent), (str(folder),))
    control, observe = sockets
    return Vm(name, "here", launch, control, observe, pidfile=pidfile, log=str(folder / f"{name}.log"))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def _ended(pid: int) -> bool:
    """Wait until the kernel says that the process has ended."""
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(5):
            return await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


@asynccontextmanager
async def running(host: PlainHost, vm: Vm) -> AsyncIterator[int]:
    await host.prepare_launch(vm, vm.launch)
    try:
        yield await host.launch(vm, vm.launch)
    finally:
        await host.destroy(vm)


async def test_a_guest_s_whole_life(here: PlainHost, qemu: Path) -> None:
    vm = guest(qemu)
    assert (await here.observe(vm)).state is RunState.ABSENT
    async with running(here, vm) as pid:
        assert os.getsid(pid) == pid, "it has a session of its own: no closed terminal reaches it"
        view = await here.observe(vm)
        assert (view.state, view.pid) == (RunState.RUNNING, pid)
        attached = await here.attach(vm)
        assert (await attached.view()).state is RunState.RUNNING
        with pytest.raises(BusyError, match="runs on here"):
            await here.prepare_launch(vm, vm.launch)
        began = time.monotonic()
        with pytest.raises(MonitorBusyError):
            await here.attach(vm)
        assert time.monotonic() - began == pytest.approx(3, abs=1)
        await attached.close()
        found = await here.find_qemu(vm.control)
        assert (found.pid, found.argv[-1]) == (pid, vm.pidfile)
    assert (await here.observe(vm)).state is RunState.ABSENT
    assert names(qemu.parent / "run dir") == [f"{NAME}.log"]
    await here.destroy(vm)


async def test_a_stopped_qemu_is_unreachable_and_not_absent_and_can_be_destroyed(here: PlainHost, qemu: Path) -> None:
    vm = guest(qemu)
    async with running(here, vm) as pid:
        os.kill(pid, signal.SIGSTOP)
        view = await here.observe(vm)
        assert (view.state, view.pid) == (RunState.UNREACHABLE, pid)
        assert f"pid {pid} lives and does not answer" in view.detail
    assert (await here.observe(vm)).state is RunState.ABSENT


async def test_a_killed_qemu_is_absent(here: PlainHost, qemu: Path) -> None:
    vm = guest(qemu)
    async with running(here, vm) as pid:
        os.kill(pid, signal.SIGKILL)
        assert await _ended(pid)
        assert (await here.observe(vm)).state is RunState.ABSENT
        with pytest.raises(QemuDiedError, match="does not run on here"):
            await here.attach(vm)


@pytest.mark.parametrize(
    ("behaviour", "words", "mend"),
    [("die", "Could not open '/x.img'", "mounted"), ("die-late", "'nonsense' is not a valid device", "built without")],
)
async def test_a_qemu_that_ends_at_once_is_quoted(
    here: PlainHost, qemu: Path, behaviour: str, words: str, mend: str
) -> None:
    vm = guest(qemu, "-double", behaviour)
    await here.prepare_launch(vm, vm.launch)
    with pytest.raises(QemuDiedError, match=words) as caught:
        await here.launch(vm, vm.launch)
    assert mend in caught.value.remedy
    assert "godwit starts" not in caught.value.message
    await here.destroy(vm)


async def test_a_missing_program_or_folder_is_named(here: PlainHost, qemu: Path) -> None:
    vm = guest(qemu)
    with pytest.raises(QemuMissingError, match="has no qemu-system-none"):
        await here.launch(vm, replace(vm.launch, argv=("qemu-system-none",)))
    with pytest.raises(HypervisorError, match="has no folder /no/such"):
        await here.launch(vm, replace(vm.launch, working_directory="/no/such"))
    (qemu.parent / "file").write_text("")
    with pytest.raises(HostError, match="cannot make the folders of"):
        await here.prepare_launch(vm, replace(vm.launch, folders=(str(qemu.parent / "file" / "x"),)))


async def test_names_that_no_shell_may_see_are_only_names(here: PlainHost, qemu: Path) -> None:
    for name in ("a b", "$(touch x);`id`", "'\"", "..", "x" * 120, "-rf"):
        vm = guest(qemu, name="g")
        vm = replace(vm, name=name, launch=replace(vm.launch, argv=(*vm.launch.argv, "-name", f"guest={name}")))
        async with running(here, vm) as pid:
            assert (await here.observe(vm)).pid == pid
        assert not (qemu.parent / "x").exists()


async def test_another_guest_of_the_same_name_is_seen_and_left_alone(here: PlainHost, qemu: Path) -> None:
    mine, other = guest(qemu), guest(qemu)
    mine = replace(mine, control=f"{mine.control}2", observe=None, pidfile=None)
    async with running(here, other) as pid:
        view = await here.observe(mine)
        assert (view.state, view.raw, view.pid) == (RunState.OTHER, "namesake", pid)
        await here.destroy(mine)
        assert (await here.observe(other)).state is RunState.RUNNING


async def test_a_stale_pidfile_kills_nobody(here: PlainHost, qemu: Path) -> None:
    vm = guest(qemu)
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    write(qemu.parent / "run dir" / f"{NAME}.pid", f"{bystander.pid}\n")
    await here.destroy(vm)
    assert names(qemu.parent / "run dir") == []
    assert bystander.returncode is None
    bystander.kill()
    assert await bystander.wait() == -signal.SIGKILL


async def test_destroying_removes_no_file_that_is_no_socket(here: PlainHost, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x" * 100)
    await here.destroy(Vm("w", "here", Launch(("qemu",)), str(precious), pidfile=str(precious)))
    assert precious.exists()


async def test_what_can_be_no_qmp_socket_cannot_be_adopted(here: PlainHost, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in (
        ("rel/path", "absolute"),
        (f"{tmp_path}/none", "does not exist"),
        (f"{tmp_path}/file", "no socket"),
    ):
        with pytest.raises(InputError, match=words):
            await here.find_qemu(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with pytest.raises((MonitorProtocolError, InputError), match=r"is no QEMU|no process that can be seen"):
            await here.find_qemu(str(tmp_path / "s"))


async def test_a_command_that_fails_is_an_error_only_if_asked_for(here: PlainHost) -> None:
    with pytest.raises(RemoteCommandError, match=r"sh -c .* on here .* failed with status 3: broken"):
        await here.run(["sh", "-c", "echo broken >&2; exit 3"])
    assert (await here.run(["false"], check=False)).status == 1


async def test_a_free_port_is_one_nobody_listens_at(here: PlainHost) -> None:
    port = await here.free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert await here.reaches("127.0.0.1", port)
        assert port not in {await here.free_port() for _ in range(5)}


async def test_interfaces_that_cannot_be_are_refused_before_anything_happens(here: PlainHost, qemu: Path) -> None:
    vm = guest(qemu)
    for name in ("", "a b", "tap/0", "..", "x" * 16, "tap0\n", "-tap"):
        with pytest.raises(InputError, match="no network interface"):
            await here.prepare_launch(vm, replace(vm.launch, taps=(Tap(name, "br0"),)))


async def test_a_token_is_found_by_whoever_sees_the_same_file(here: PlainHost, tmp_path: Path) -> None:
    disk = tmp_path / "my disk;$(x).qcow2"
    write(disk, "x" * 77)
    link = tmp_path / "link"
    link.symlink_to(disk)
    await here.plant_token(str(disk), "token-1")
    identity = f"77:{disk.stat().st_ino}"
    assert await here.find_token(str(disk)) == ("token-1", identity)
    assert await here.find_token(str(link)) == ("token-1", identity)
    await here.remove_token(str(link), "token-2")
    assert await here.find_token(str(disk)) == ("token-1", identity)
    await here.remove_token(str(link), "token-1")
    await here.remove_token(str(link), "token-1")
    assert await here.find_token(str(disk)) == (None, identity)
    assert names(tmp_path) == ["link", disk.name]
    assert disk.read_bytes() == b"x" * 77


async def test_another_s_token_is_waited_for_and_a_stale_one_replaced(here: PlainHost, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    write(disk, "")
    await here.plant_token(str(disk), "first")
    second = asyncio.create_task(here.plant_token(str(disk), "second"))
    await asyncio.sleep(0.3)
    assert (await here.find_token(str(disk)))[0] == "first"
    await here.remove_token(str(disk), "first")
    await second
    os.utime(tmp_path / names(tmp_path)[0], (1, 1))
    await here.plant_token(str(disk), "third")
    assert (await here.find_token(str(disk)))[0] == "third"


async def test_a_disk_that_is_absent_or_means_nothing(here: PlainHost, tmp_path: Path) -> None:
    assert await here.find_token(str(tmp_path / "none")) == (None, "")
    with pytest.raises(HostError, match="has no"):
        await here.plant_token(str(tmp_path / "none"), "t")
    with pytest.raises(InputError, match="absolute"):
        await here.find_token("disk.img")
    with pytest.raises(InputError, match="no token"):
        await here.plant_token(str(tmp_path), "a b")
    with pytest.raises(InputError, match="lease"):
        await here.restore_send_queue("../x")
    with pytest.raises(InputError, match="send queue"):
        await here.shorten_send_queue("x", 0)
