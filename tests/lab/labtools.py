"""What the tests of whole moves stand on: a laboratory with a guest, the command line, and a look at the world.

The look is taken from outside (/proc, the kernel's links, QEMU's own monitor), never through what is being tested.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from labmoves import Move
from labtraps import Traps
from labwaits import LONG, until

from godwit import app
from godwit.lab.furnish import DISK, Direct, GuestPlan, add_guest, prefix, register
from godwit.lab.loads import TICK_PORT, TickReader
from godwit.model import RunState
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from labtraps import Trap

    from godwit.lab.assets import Assets
    from godwit.lab.laboratory import Laboratory, RunningQemu

MEMORY: Final = 224 * MIB
CRAWL: Final = 8_000_000
"""Bits a second at which a guest's memory takes minutes: whoever waits for a phase before the end does reach it."""

UNTOUCHED: Final = "4294967295"
"""The kernel's own value of net.ipv4.tcp_notsent_lowat."""

GONE: Final = "gone"
"""The run state of a QEMU that has ended between two looks."""


def lives(pid: int) -> bool:
    """Say whether a process is there, and no zombie that only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it printed as JSON."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]


@dataclass(slots=True)
class Ground:
    """A laboratory with one guest, and a folder of its own for Godwit."""

    lab: Laboratory
    assets: Assets
    home: Path
    name: str = ""
    number: int = 0
    guests: int = 0
    moves: list[str] = field(default_factory=list)
    laid: int = 0

    # -- making it ---------------------------------------------------------------------------------------------------

    async def introduce(self) -> None:
        """Register the laboratory's machines."""
        async with app.opened(self.home) as service:
            await register(service, self.lab)

    async def settle(self) -> None:
        """Register the laboratory's machines and start a guest."""
        await self.introduce()
        await self.fresh_guest()

    async def fresh_guest(
        self,
        host: str = "host1",
        *,
        memory: int = MEMORY,
        agent: bool = False,
        reports: bool = True,
        disk: int = DISK,
        direct: Direct = "",
    ) -> None:
        """Start a guest that no earlier test has touched, with a channel for its agent if asked for."""
        name = f"web{self.guests}"
        plan = GuestPlan(name, self.guests, memory, agent=agent, reports=reports, disk=disk, direct=direct)
        number, self.guests = self.guests, self.guests + 1
        async with app.opened(self.home) as service:
            vm = await add_guest(service, self.lab, self.assets, plan, host)
        self.use(vm.name, number)
        await self.answers()

    async def answers(self) -> None:
        """Wait until the present guest has come up and ticks."""
        end = time.monotonic() + 2 * LONG
        while not await self.ticks():
            assert time.monotonic() < end, f"{self.name} does not come up"
            await asyncio.sleep(0.2)
        async with self.client():
            pass

    async def healthy_guest(self) -> None:
        """See to it that the laboratory is whole and a guest runs in it, whatever the last test did to them."""
        self.lab.set_rate(None)
        for machine in self.lab.status().machines:
            if not machine.up:
                self.lab.restart(machine.name)
            if machine.cut:
                self.lab.heal(machine.name, "all")
        async with app.opened(self.home) as service:
            vm = await service.inventory.vm(self.name)
            alive = (await service.view_vm(vm)).state is RunState.RUNNING and await self.ticks()
            if not alive:
                for qemus in self.qemus().values():
                    for qemu in qemus:
                        os.kill(qemu.pid, signal.SIGKILL)
                await until(lambda: not any(self.qemus().values()), "the old guest's processes are gone")
                for host in self.qemus():
                    for tap in self.taps(host):
                        self.inside(host, "ip", "link", "delete", tap)
        if not alive:
            await self.fresh_guest()

    async def ticks(self) -> bool:
        """Say whether the guest's program answers at once."""
        try:
            async with asyncio.timeout(3):
                reader, writer = await asyncio.open_connection(self.address, TICK_PORT)
                line = await reader.readline()
        except (OSError, TimeoutError):
            return False
        writer.close()
        return bool(line)

    # -- names ---------------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the present guest is reached."""
        return self.addressed(self.number)

    def addressed(self, number: int) -> str:
        """Return the address of a guest's number."""
        return self.lab.plan.guest_address(number)

    def use(self, name: str, number: int) -> None:
        """Take another guest for the present one."""
        self.name, self.number = name, number

    def ssh(self, line: str) -> str:
        """Run a shell line in the guest and return what it printed."""
        return subprocess.run(
            [*self.login(), line], capture_output=True, text=True, timeout=20, check=False
        ).stdout.strip()

    def login(self) -> list[str]:
        """Return the command that logs in to the guest."""
        ssh = ["ssh", "-i", str(self.lab.client.key_file), "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]
        return [*ssh, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", f"root@{self.address}"]

    def host(self, machine: str) -> str:
        """Return the name under which a machine of the laboratory is registered."""
        return prefix(self.lab.name) + machine

    async def whereabouts(self) -> tuple[str, str]:
        """Return the machine that the guest is on, and the other one."""
        async with app.opened(self.home) as service:
            here = (await service.inventory.vm(self.name)).host.removeprefix(prefix(self.lab.name))
        return here, "host2" if here == "host1" else "host1"

    async def record_home(self, machine: str) -> None:
        """Note in the inventory where the guest has gone by a move that another folder's journal holds."""
        async with app.opened(self.home) as service:
            vm = await service.inventory.vm(self.name)
            await service.inventory.put_vm(replace(vm, host=self.host(machine)))

    # -- the command line --------------------------------------------------------------------------------------------

    def environment(self, traps: Traps | None = None, **more: str) -> dict[str, str]:
        """Return what a command of Godwit's finds in its environment."""
        return {**os.environ, "GODWIT_HOME": str(self.home), **(traps.environment if traps else {}), **more}

    async def spawn(self, *arguments: str, traps: Traps | None = None, **more: str) -> asyncio.subprocess.Process:
        """Start a command of Godwit's in a session of its own."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "godwit", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(traps, **more),
            start_new_session=True,
        )

    async def godwit(self, *arguments: str, traps: Traps | None = None, deadline: float = LONG, **more: str) -> Ran:
        """Type a command and wait for its end."""
        process = await self.spawn(*arguments, traps=traps, **more)
        try:
            async with asyncio.timeout(deadline):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        ran = Ran(process.returncode, out.decode(), err.decode())
        assert "Traceback" not in ran.out + ran.err, ran
        return ran

    def lay(self, *traps: Trap) -> Traps:
        """Lay traps for the next move."""
        self.laid += 1
        return Traps(self.home / "traps" / str(self.laid), traps)

    async def begin(self, target: str, *options: str, traps: Traps | None = None) -> Move:
        """Ask for a move and leave it to its runner."""
        ran = await self.godwit("migrate", self.name, self.host(target), "--detach", "--json", *options, traps=traps)
        assert ran.status == 0, ran
        identifier = str(ran.lines[0]["id"])
        self.moves.append(identifier)
        return Move(self, identifier)

    async def latest(self) -> Move:
        """Return the move that was asked for last."""
        async with app.opened(self.home) as service:
            identifier = (await service.journal.rows(limit=1))[0].spec.id
        self.moves.append(identifier)
        return Move(self, identifier)

    # -- the guest's users -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def client(self) -> AsyncIterator[TickReader]:
        """Read the guest's ticks; at the end nothing may be lost or doubled, and the connection must be the same."""
        async with TickReader(self.address) as ticks:
            yield ticks
            seen = ticks.ticks
            await until(lambda: ticks.ticks > seen + 5 or bool(ticks.faults), "the guest ticks on", 20)
            assert ticks.faults == []

    @asynccontextmanager
    async def dirtying(self, rate: str = "40M", hot: str = "24M") -> AsyncIterator[None]:
        """Let the guest write whole pages of noise, faster than a slow link carries them: nothing shortens that."""
        writer = f"memwriter --rate {rate} --set {hot}"
        ssh = self.login()
        process = await asyncio.create_subprocess_exec(*ssh, f"echo $$; exec {writer}", stdout=subprocess.PIPE)
        assert process.stdout is not None
        pid = ""
        try:
            async with asyncio.timeout(20):
                pid = (await process.stdout.readline()).decode().strip()
            assert pid.isdigit()
            yield
        finally:
            await _quietly(*ssh, f"kill {pid}")
            if process.returncode is None:
                process.kill()
            await process.wait()

    # -- the world as it is ------------------------------------------------------------------------------------------

    def init(self, machine: str) -> int:
        """Return the process that stands for a machine, as this machine counts."""
        pid = next(one.pid for one in self.lab.status().machines if one.name == machine)
        assert pid is not None, f"{machine} is down"
        return pid

    def qemus(self) -> dict[str, tuple[RunningQemu, ...]]:
        """Return each host's QEMU processes."""
        return {one.name: one.qemus for one in self.lab.status().machines if one.name.startswith("host")}

    async def qemu(self, machine: str) -> int:
        """Wait for a QEMU on a host and return its process."""
        await until(lambda: bool(self.qemus()[machine]), f"a QEMU on {machine}")
        return self.qemus()[machine][0].pid

    def run_state(self, qemu: int) -> str:
        """Ask a QEMU by its second monitor whether it executes the guest; GONE for one that has ended meanwhile."""
        try:
            return str(self.tell(qemu, "query-status")["status"])
        except (OSError, ValueError, StopIteration):
            end = time.monotonic() + 2.0  # whoever is killed lets go of its sockets before it is gone
            while lives(qemu):
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)  # it is no child of ours, so nobody tells of its end; the loop has a deadline
            return GONE

    def tell(self, qemu: int, command: str) -> dict[str, Any]:
        """Say something to a QEMU's second monitor and return the answer."""
        return dict(self.ask(qemu, command))

    def ask(self, qemu: int, command: str) -> Any:  # noqa: ANN401 - whatever the command returns
        """Ask a QEMU's second monitor something that is answered with anything at all."""
        words = Path(f"/proc/{qemu}/cmdline").read_bytes().decode().split("\0")
        monitor = next(word for word in words if word.startswith("socket,id=observe,path="))
        path = f"/proc/{qemu}/root{monitor.split(',')[2].removeprefix('path=')}"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(15)
            connection.connect(path)
            stream = connection.makefile("rw")
            stream.readline()
            for one in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": one}) + "\n")
                stream.flush()
                while "return" not in (said := json.loads(stream.readline())):
                    pass
        return said["return"]

    def left_on(self, machine: str) -> list[str]:
        """Return what is left of the guest on a host: processes, taps, sockets."""
        found = [f"QEMU {one.pid}" for one in self.qemus()[machine] if self.name in " ".join(one.arguments)]
        folder = Path(f"/proc/{self.init(machine)}/root/run/godwit/{self.name}")
        found += [str(path) for path in sorted(folder.glob("*")) if path.is_socket()] if folder.is_dir() else []
        return found + self.taps(machine) + self.keys_on(machine)

    def keys_on(self, machine: str) -> list[str]:
        """Return the folders of keys on a host."""
        folder = Path(f"/proc/{self.init(machine)}/root/run/godwit-tls")
        return [str(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []

    def taps(self, machine: str) -> list[str]:
        """Return the taps on a host."""
        links = json.loads(self.inside(machine, "ip", "-json", "link", "show"))
        return [row["ifname"] for row in links if row["ifname"].startswith("gw")]

    def send_queue(self, machine: str) -> tuple[str, list[str]]:
        """Return a host's tcp_notsent_lowat and the leases on it."""
        value = self.inside(machine, "cat", "/proc/sys/net/ipv4/tcp_notsent_lowat").strip()
        place = Path(f"/proc/{self.init(machine)}/root/run/godwit/send-queue")
        return value, sorted(path.name for path in (place / "leases").glob("*"))

    def inside(self, machine: str, *argv: str) -> str:
        """Run a command on a machine and return what it printed."""
        command = self.lab.command(machine, list(argv))
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    async def assert_settled(self, machine: str) -> None:
        """Assert that the guest runs on this host alone, and that nothing is left on the other one, nor held."""
        other = "host2" if machine == "host1" else "host1"
        assert (await self.whereabouts())[0] == machine
        qemus = self.qemus()
        # A host that looks what its QEMU can do runs one for moments, and one whose caller was killed ends by itself.
        copies = {one: [qemu for qemu in found if "-name" in qemu.arguments] for one, found in qemus.items()}
        assert [len(copies[machine]), len(copies[other])] == [1, 0], qemus
        assert self.run_state(copies[machine][0].pid) == "running"
        assert self.left_on(other) == []
        for one in (machine, other):
            assert self.send_queue(one) == (UNTOUCHED, [])
            assert self.keys_on(one) == []

    def end_runners(self) -> None:
        """End what still works on a move of this laboratory's."""
        for identifier in self.moves:
            for pid in Move(self, identifier).processes():
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)

    # -- what to print when something fails --------------------------------------------------------------------------

    def story(self) -> str:
        """Return the last move's journal, its runner's log, and the QEMUs' logs."""
        parts = []
        for identifier in self.moves[-1:]:
            show = [sys.executable, "-m", "godwit", "show", identifier]
            shown = subprocess.run(show, capture_output=True, text=True, env=self.environment(), check=False)
            log = self.home / "log" / f"{identifier}.log"
            parts += [shown.stdout + shown.stderr, "-- runner", log.read_text() if log.exists() else "no log"]
        for machine in self.lab.status().machines:
            parts.append(f"-- {machine.name}: up={machine.up} cut={sorted(machine.cut)} {len(machine.qemus)} QEMU")
            for log in Path(f"/proc/{machine.pid}/root/run/godwit").glob("*/*.log") if machine.up else ():
                parts.append(f"-- {log}\n{log.read_text(errors='replace')[-3000:]}")
        return "\n".join(parts)


async def _quietly(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(5):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
