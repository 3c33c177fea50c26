"""Encrypted moves on real QEMU: strangers at every open port, where keys are and where not, and a move in the clear.

The runner is held when a port is open and the source has not come: whoever comes now comes first.
"""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from diskground import fill
from labtraps import Trap
from labwaits import until

from godwit import app
from godwit.lab.furnish import prefix
from godwit.model import MIGRATION_PORTS, OutcomeStatus
from godwit.tls.authority import HomeAuthority
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from labmoves import Move
    from labtools import Ground
    from labtraps import Traps

    from godwit.model import Credentials

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

IT_LISTENS: Final = "godwit.qemu.guest:QemuGuest.listen"
IT_TAKES_DISKS: Final = "godwit.qemu.guest:QemuGuest.serve_disks"
GREETING: Final = b"NBDMAGICIHAVEOPT\0\3"

STRANGER: Final = """
import os, socket, ssl, sys
kind, address, port, keys, stays = sys.argv[1:6]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
if kind == "tls":
    context.load_cert_chain(f"{keys}/client-cert.pem", f"{keys}/client-key.pem")
line = socket.create_connection((address, int(port)), timeout=5)
said = b""
try:
    if kind == "tls":
        line = context.wrap_socket(line)
    if kind in {"tls", "plain"}:
        line.sendall(b"QEVM\\0\\0\\0\\3" + bytes(65536))
    elif kind == "garbage":
        line.sendall(os.urandom(65536))
    line.settimeout(float(stays))
    while (more := line.recv(65536)):
        said += more
except (ConnectionError, TimeoutError, ssl.SSLError):
    pass
print(said.hex())
"""


MARK: Final = "nobody-else-may-read-this:"
DOUBLED: Final = 16
"""How often the mark is doubled, so that the guest's memory and its disk each have 1.8 MB of it."""

WRITES_MARKS: Final = f"""
echo {MARK} >/run/marks; n=0
while [ $n -lt {DOUBLED} ]; do cat /run/marks /run/marks >/run/more; mv /run/more /run/marks; n=$((n + 1)); done
cp /run/marks /data/marks; sync; wc -l </run/marks; wc -l </data/marks
"""

EAVESDROPPER: Final = """
import select, socket, sys
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
line.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
print("listens", flush=True)
heard = marks = 0
while sys.stdin not in (ready := select.select([line, sys.stdin], [], [])[0]):
    frame = line.recv(1 << 17)
    heard, marks = heard + len(frame), marks + frame.count(sys.argv[1].encode())
print(heard, marks)
"""


def lay_out(credentials: Credentials, folder: Path) -> Path:
    """Put a client's credentials where QEMU's programs and the stranger find them."""
    folder.mkdir()
    texts = {"ca": credentials.authorities, "client": credentials.certificate}
    for name, text in texts.items():
        (folder / f"{name}-cert.pem").write_text(text)
    (folder / "client-key.pem").write_text(credentials.key)
    return folder


@asynccontextmanager
async def strangers(ground: Ground, machine: str, folder: Path) -> AsyncIterator[dict[str, Path]]:
    """Give a machine the credentials of somebody of another authority, and of another move of the same one."""
    foreign = HomeAuthority(folder / "foreign", app.RealClock())
    ours = HomeAuthority(ground.home, app.RealClock())
    seen, here = Path("/mnt/images"), ground.lab.images(machine)
    try:
        for name, authority in (("foreign", foreign), ("other", ours)):
            pair = await authority.pair("db-7", "elsewhere", "127.0.0.1")
            lay_out(pair.client, here / f"{name}-keys")
        yield {name: seen / f"{name}-keys" for name in ("foreign", "other")}
    finally:
        for name in ("foreign", "other"):
            shutil.rmtree(here / f"{name}-keys", ignore_errors=True)


def listening(ground: Ground, machine: str) -> list[tuple[str, int]]:
    """Return where QEMU, or one of its programs, listens on a machine."""
    rows = [row.split() for row in ground.inside(machine, "ss", "-ltnpH").splitlines() if "qemu" in row]
    found = [row[3].rpartition(":") for row in rows]
    return sorted((address, int(port)) for address, _, port in found)


def visit(ground: Ground, machine: str, kind: str, at: tuple[str, int], keys: Path, stays: float = 1.0) -> bytes:
    """Be a stranger at a port; returns all that it was told."""
    words = ["python3", "-c", STRANGER, kind, at[0], str(at[1]), str(keys), str(stays)]
    return bytes.fromhex(ground.inside(machine, *words).strip())


@contextmanager
def staying(ground: Ground, machine: str, at: tuple[str, int]) -> Iterator[list[bytes]]:
    """Let a silent stranger stay at a port; gives what it was told, once that has ended."""
    words = ["python3", "-c", STRANGER, "silent", at[0], str(at[1]), "-", "60"]
    said: list[bytes] = []
    with subprocess.Popen(ground.lab.command(machine, words), stdout=subprocess.PIPE) as stranger:
        try:
            yield said
        finally:
            out = stranger.communicate(timeout=90)[0]
            said.append(bytes.fromhex(out.decode().strip()))


@contextmanager
def eavesdropping(ground: Ground, machine: str) -> Iterator[list[int]]:
    """Listen to each network of a machine; gives the bytes heard, and the marks in them, once it has ended."""
    words = ground.lab.command(machine, ["python3", "-c", EAVESDROPPER, MARK])
    told: list[int] = []
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listens\n"
        try:
            yield told
        finally:
            told += [int(word) for word in listener.communicate("\n", timeout=60)[0].split()]


def ask_for_disk(ground: Ground, machine: str, at: tuple[str, int], keys: Path | None, export: str) -> tuple[bool, str]:
    """Come to a server of disks with QEMU's own program; says whether that was let in, and what it said."""
    server = {"type": "inet", "host": at[0], "port": str(at[1])}
    far: dict[str, Any] = {"driver": "nbd", "server": server, "export": export}
    words = ["qemu-img", "info", "-U"]
    if keys is not None:
        far["tls-creds"] = "tls"
        words += ["--object", f"tls-creds-x509,id=tls,endpoint=client,verify-peer=off,dir={keys}"]
    command = ground.lab.command(machine, ["timeout", "5", *words, "json:" + json.dumps(far)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def real_qemu(ground: Ground, machine: str, at: tuple[str, int]) -> None:
    """Let a QEMU of somebody's send itself there, plainly; what it takes for its end is its own affair."""
    script = f"(echo 'migrate tcp:{at[0]}:{at[1]}'; sleep 1; echo quit) | timeout 20 "
    script += "qemu-system-x86_64 -machine none -S -nodefaults -display none -monitor stdio 2>&1"
    ground.inside(machine, "sh", "-c", script)


def secrets_of(ground: Ground) -> list[str]:
    """Return lines out of the keys that lie on both hosts while a move is under way; look at their rights, too."""
    lines = []
    for machine in ("host1", "host2"):
        (folder,) = map(Path, ground.keys_on(machine))
        assert folder.name.startswith(f"{ground.name}.")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        (key,) = folder.glob("*-key.pem")
        lines.append(key.read_text().splitlines()[1])
    return lines


def command_lines() -> str:
    """Return the command lines and environments of every process of this machine."""
    texts = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in ("cmdline", "environ"):
                try:
                    texts.append((entry / name).read_bytes().decode(errors="replace"))
                except OSError:  # it has just ended
                    continue
    return "\n".join(texts)


async def said_by(ground: Ground, move: Move, folder: Path) -> str:
    """Return all that Godwit has written of a move: journal, logs, report; and QEMU's logs."""
    page = folder / "report.html"
    texts = [ground.story()]
    for words in (("report", move.id, "--html", str(page)), ("report", move.id, "--json"), ("show", move.id)):
        ran = await ground.godwit(*words)
        assert ran.status == 0, ran
        texts.append(ran.out + ran.err)
    files = [path for path in ground.home.rglob("*") if path.is_file() and "tls" not in path.parts]
    return "\n".join((*texts, *(path.read_bytes().decode(errors="replace") for path in (page, *files))))


async def held(ground: Ground, there: str, *options: str, at: str) -> tuple[Move, Traps]:
    """Begin a move, and hold its runner there."""
    traps = ground.lay(Trap("hold", at=at))
    move = await ground.begin(there, *options, traps=traps)
    await until(traps.sprung, "the runner is held")
    return move, traps


async def address_of(ground: Ground, machine: str) -> str:
    """Return where a host takes streams."""
    async with app.opened(ground.home) as service:
        return (await service.check_host(prefix(ground.lab.name) + machine)).migration_address


async def test_strangers_at_the_streams_port_get_nothing_and_the_move_completes(ground: Ground, tmp_path: Path) -> None:
    here, there = await ground.whereabouts()
    address = await address_of(ground, there)
    async with ground.client(), strangers(ground, here, tmp_path) as keys:
        move, traps = await held(ground, there, at=IT_LISTENS)
        (at,) = listening(ground, there)
        assert at[0] == address
        assert at[1] in MIGRATION_PORTS
        lines = secrets_of(ground)
        assert not any(line in command_lines() for line in lines)
        told = {
            "garbage": visit(ground, here, "garbage", at, keys["foreign"]),
            "silent": visit(ground, here, "silent", at, keys["foreign"]),
            "plain": visit(ground, here, "plain", at, keys["foreign"]),
            "foreign": visit(ground, here, "tls", at, keys["foreign"]),
            "other": visit(ground, here, "tls", at, keys["other"]),
        }
        assert told == dict.fromkeys(told, b""), told
        real_qemu(ground, here, at)
        assert ground.run_state(await ground.qemu(there)) == "inmigrate"
        assert listening(ground, there) == [at]
        with staying(ground, here, at) as stayed:  # it is there still when the source comes
            traps.release()
            outcome = await move.outcome()
    assert stayed == [b""]
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    assert outcome.encrypted is True
    await ground.assert_settled(there)
    assert listening(ground, there) == []
    written = await said_by(ground, move, tmp_path)
    assert "hasn't got a known issuer" in written
    assert "authz check for CN=db-7 is denied" in written
    assert not any(line in written for line in lines)
    assert "PRIVATE KEY" not in written


@pytest.mark.long
async def test_strangers_at_the_disks_port_get_nothing_and_the_move_completes(apart: Ground, tmp_path: Path) -> None:
    ground = apart
    here, there = await fill(ground)
    async with ground.client(), strangers(ground, here, tmp_path) as keys:
        move, traps = await held(ground, there, "--verify-disks", at=IT_TAKES_DISKS)
        (at,) = listening(ground, there)  # nobody listens for the stream yet
        assert at[0] == await address_of(ground, there)
        export = (await move.state()).copies[0].job
        told = {kind: visit(ground, here, kind, at, keys["foreign"]) for kind in ("garbage", "silent", "plain")}
        assert set(told.values()) <= {GREETING, b""}, told
        mine = Path("/run/godwit-tls") / Path(ground.keys_on(here)[0]).name
        visitors = {"nobody": None, "foreign": keys["foreign"], "other": keys["other"], "this move": mine}
        seen = {name: ask_for_disk(ground, here, at, shown, export) for name, shown in visitors.items()}
        assert [name for name, (let_in, _) in seen.items() if let_in] == ["this move"], seen
        assert not any("No such file" in said for _, said in seen.values()), seen
        traps.release()
        outcome = await move.outcome(120)
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    assert outcome.encrypted is True
    assert outcome.comparison is not None
    assert outcome.comparison.equal
    await ground.assert_settled(there)
    assert listening(ground, there) == []


@pytest.mark.parametrize("words", [(), ("--plaintext",)], ids=["encrypted", "in the clear"])
async def test_who_listens_to_the_network_reads_nothing_of_memory_and_disks(
    apart: Ground, words: tuple[str, ...]
) -> None:
    """In the clear the same listener reads both: he is a listener."""
    here, there = await fill(apart)
    assert apart.ssh(WRITES_MARKS).split() == [str(1 << DOUBLED)] * 2
    with eavesdropping(apart, here) as told:
        ran = await apart.godwit("migrate", apart.name, apart.host(there), *words)
    assert ran.status == 0, ran
    heard, marks = told
    assert heard > 8 * MIB
    assert (marks > 1.5 * (1 << DOUBLED)) if words else (marks == 0), (heard, marks)


async def test_a_move_in_the_clear_works_and_says_so(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    ran = await ground.godwit("migrate", ground.name, ground.host(there), "--plaintext")
    assert ran.status == 0, ran
    assert "NOT encrypted" in ran.out
    assert "nothing of this move is encrypted" in ran.out
    await ground.assert_settled(there)


async def test_hosts_are_checked_by_a_handshake(ground: Ground) -> None:
    ran = await ground.godwit("tls", "check", "--json")
    found = ran.lines[0]
    assert ran.status == 0, ran
    assert found["works"] is True
    assert all(one["trouble"] == "" for one in found["hosts"])
    assert all(ground.keys_on(machine) == [] for machine in ("host1", "host2"))
