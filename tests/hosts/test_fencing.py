"""Cutting a host's power: by programs that really run, and over Redfish with a server that really listens."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import os
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from godwit.errors import FenceError
from godwit.hosts import fencing
from godwit.hosts.fencing import PowerFencer
from godwit.hosts.redfish import LARGEST
from godwit.model import FenceCommand, HostRecord, Redfish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "correct horse"  # noqa: S105 - of a server that lives for one test
SYSTEM = "/redfish/v1/Systems/1"


# -- by programs ---------------------------------------------------------------------------------------------------


def commands(off: str, status: str) -> HostRecord:
    return HostRecord("host2", "ssh://host2", fence=FenceCommand(("sh", "-c", off, "{host}"), ("sh", "-c", status)))


async def test_a_program_cuts_and_another_proves_it(tmp_path: Path) -> None:
    record = commands(f'echo "$0" > {tmp_path}/off', f"test -e {tmp_path}/off")
    assert not (await PowerFencer().power(record)).off
    power = await PowerFencer().cut(record)
    assert power.off
    assert power.said == "sh (for host2) ended with 0"
    assert (tmp_path / "off").read_text() == "host2\n"


async def test_no_shell_reads_what_a_name_holds(tmp_path: Path) -> None:
    record = HostRecord("$(reboot)", "local", fence=FenceCommand(("tee", f"{tmp_path}/{{host}}"), ("true",)))
    assert (await PowerFencer().cut(record)).off
    assert os.listdir(tmp_path) == ["$(reboot)"]  # noqa: PTH208 - a folder of one file


async def test_a_program_that_succeeds_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fencing, "OFF_DEADLINE", 0.2)
    with pytest.raises(FenceError, match=r"host2 is not proven to be off: sh \(for host2\) ended with 1: it is on"):
        await PowerFencer().cut(commands("true", "echo it is on >&2; exit 1"))


async def test_a_program_that_fails_on_a_host_that_is_off_does_no_harm() -> None:
    assert (await PowerFencer().cut(commands("echo already >&2; exit 3", "true"))).off


async def test_a_program_that_fails_is_told_of() -> None:
    with pytest.raises(FenceError, match=r"ended with 3: no such plug"):
        await PowerFencer().cut(commands("echo no such plug >&2; exit 3", "exit 1"))


async def test_what_a_program_says_cannot_drive_a_terminal() -> None:
    with pytest.raises(FenceError) as failed:
        await PowerFencer().cut(commands("printf 'red \\033[31m alert' >&2; exit 3", "exit 1"))
    assert "\x1b" not in failed.value.message


async def test_a_program_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fencing, "COMMAND_DEADLINE", 0.3)
    with pytest.raises(FenceError, match="did not end within"):
        await PowerFencer().power(commands("true", "exec sleep 60"))


async def test_a_program_that_is_not_there_is_named() -> None:
    record = HostRecord("host2", "local", fence=FenceCommand(("/nowhere/off",), ("/nowhere/status",)))
    with pytest.raises(FenceError, match="/nowhere/off cannot be run: No such file"):
        await PowerFencer().cut(record)


async def test_a_host_without_a_device_is_refused() -> None:
    with pytest.raises(FenceError, match="nothing is known that cuts the power of host2"):
        await PowerFencer().cut(HostRecord("host2", "local"))


# -- over Redfish --------------------------------------------------------------------------------------------------


@dataclass
class Machine:
    """What a management controller stands for, and how it behaves."""

    url: str = ""
    power: str = "On"
    obeys: bool = True
    members: tuple[str, ...] = (SYSTEM,)
    allowed: tuple[str, ...] = ("On", "ForceOff")
    answer: bytes | None = None
    redirect: str = ""
    target: str = f"{SYSTEM}/Actions/ComputerSystem.Reset"
    asked: list[str] = field(default_factory=list)
    logins: set[str] = field(default_factory=set)

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append(f"{method} {path}")
        if self.redirect:
            return 302, b""
        if self.answer is not None:
            return 200, self.answer
        if method == "POST" and path == f"{SYSTEM}/Actions/ComputerSystem.Reset":
            assert json.loads(body) == {"ResetType": "ForceOff"}
            if self.power == "Off":
                return 409, b"{}"
            self.power = "Off" if self.obeys else self.power
            return 204, b""
        known: dict[str, dict[str, Any]] = {
            "/redfish/v1/Systems": {"Members": [{"@odata.id": one} for one in self.members]},
            SYSTEM: {
                "PowerState": self.power,
                "Actions": {
                    "#ComputerSystem.Reset": {
                        "target": self.target,
                        "ResetType@Redfish.AllowableValues": list(self.allowed),
                    }
                },
            },
        }
        found = known.get(path)
        return (404, b"{}") if found is None else (200, json.dumps(found).encode())


def certificate(folder: Path) -> None:
    """Write a key and a certificate that this machine's loopback address signs for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bmc")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))


@contextmanager
def listening(machine: Machine, folder: Path) -> Iterator[None]:
    """Let a management controller listen on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            login = self.headers.get("Authorization", "").removeprefix("Basic ")
            machine.logins.add(base64.b64decode(login).decode())
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, text = machine.reply(self.command, self.path, body)
            if f"admin:{PASSWORD}" not in machine.logins:
                status, text = 401, b"{}"
            self.send_response(status)
            if machine.redirect:
                self.send_header("Location", machine.redirect)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer  # noqa: N815 - the library calls them so

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the library calls it so
            pass

    certificate(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    machine.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine()
    with listening(made, tmp_path):
        yield made


@pytest.fixture
def device(machine: Machine, tmp_path: Path) -> Redfish:
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text(f"{PASSWORD}\n")
    return Redfish(machine.url, "admin", str(secret), ca_file=str(tmp_path / "cert.pem"))


def host(device: Redfish) -> HostRecord:
    return HostRecord("host2", "ssh://host2", fence=device)


async def test_redfish_cuts_power_and_proves_it(machine: Machine, device: Redfish) -> None:
    before = await PowerFencer().power(host(device))
    assert (before.off, before.said) == (False, f"{machine.url} says that its power is On")
    after = await PowerFencer().cut(host(device))
    assert (after.off, after.said) == (True, f"{machine.url} says that its power is Off")
    assert machine.asked.count(f"POST {SYSTEM}/Actions/ComputerSystem.Reset") == 1
    assert machine.logins == {f"admin:{PASSWORD}"}


async def test_a_machine_that_is_off_is_proven_to_be_so_though_its_controller_refuses(
    machine: Machine, device: Redfish
) -> None:
    machine.power = "Off"
    assert (await PowerFencer().cut(host(device))).off


async def test_a_controller_that_accepts_and_does_nothing_proves_nothing(
    machine: Machine, device: Redfish, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.obeys = False
    monkeypatch.setattr(fencing, "OFF_DEADLINE", 0.2)
    with pytest.raises(FenceError, match=r"host2 is not proven to be off: .* says that its power is On"):
        await PowerFencer().cut(host(device))


async def test_the_password_may_come_from_the_environment(device: Redfish, monkeypatch: pytest.MonkeyPatch) -> None:
    named = replace(device, password_file=None, password_variable="BMC_PASSWORD")  # noqa: S106 - a variable's name
    with pytest.raises(FenceError, match="the environment variable BMC_PASSWORD is not set"):
        await PowerFencer().power(host(named))
    monkeypatch.setenv("BMC_PASSWORD", PASSWORD)
    assert not (await PowerFencer().power(host(named))).off


async def test_a_password_that_others_may_read_is_refused(device: Redfish, tmp_path: Path) -> None:
    (tmp_path / "password").chmod(0o640)
    with pytest.raises(FenceError, match="others than its owner may read the password") as refused:
        await PowerFencer().power(host(device))
    assert "chmod 600" in refused.value.remedy
    (tmp_path / "password").unlink()
    with pytest.raises(FenceError, match="cannot be read: No such file"):
        await PowerFencer().power(host(device))


async def test_a_stranger_s_certificate_is_refused(machine: Machine, device: Redfish) -> None:
    with pytest.raises(FenceError, match="its certificate is not trusted"):
        await PowerFencer().power(host(replace(device, ca_file=None)))
    assert machine.logins == set()  # nobody heard the password
    assert not (await PowerFencer().power(host(replace(device, ca_file=None, insecure=True)))).off


async def test_plain_http_is_refused(device: Redfish) -> None:
    with pytest.raises(FenceError, match="is no https:// address"):
        await PowerFencer().power(host(replace(device, url=device.url.replace("https", "http"))))


async def test_a_redirect_takes_the_password_nowhere(machine: Machine, device: Redfish) -> None:
    machine.redirect = f"{machine.url}/elsewhere"
    with pytest.raises(FenceError, match="HTTP status 302"):
        await PowerFencer().power(host(device))
    assert machine.asked == ["GET /redfish/v1/Systems"]


async def test_several_systems_need_a_name(machine: Machine, device: Redfish) -> None:
    machine.members = (SYSTEM, "/redfish/v1/Systems/2")
    with pytest.raises(FenceError, match=r"has 2 systems \(1, 2\)") as refused:
        await PowerFencer().power(host(device))
    assert "--system" in refused.value.remedy
    assert not (await PowerFencer().power(host(replace(device, system="1")))).off
    with pytest.raises(FenceError, match="HTTP status 404"):
        await PowerFencer().power(host(replace(device, system="../../x")))


@pytest.mark.parametrize("target", ["https://elsewhere/reset", "//elsewhere/reset", ""])
async def test_an_action_that_points_elsewhere_is_not_followed(machine: Machine, device: Redfish, target: str) -> None:
    machine.target = target
    assert (await PowerFencer().cut(host(device))).off


async def test_a_machine_that_cannot_be_forced_is_refused(machine: Machine, device: Redfish) -> None:
    machine.allowed = ("On", "GracefulShutdown")
    with pytest.raises(FenceError, match="cannot force power off: it knows On, GracefulShutdown"):
        await PowerFencer().cut(host(device))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1]", "describes nothing"),
        (b"{}", "has 0 systems"),
        (b" " * (LARGEST + 1), "more than"),
    ],
)
async def test_whatever_it_answers_is_an_error_with_words(
    machine: Machine, device: Redfish, answer: bytes, words: str
) -> None:
    machine.answer = answer
    with pytest.raises(FenceError, match=words):
        await PowerFencer().power(host(device))


@pytest.mark.parametrize("answer", [b"{}", b'{"PowerState": 3}', b'{"PowerState": "\\u001b[2J"}'])
async def test_no_word_about_power_proves_nothing(machine: Machine, device: Redfish, answer: bytes) -> None:
    machine.answer = answer
    with pytest.raises(FenceError, match="does not say whether the machine has power"):
        await PowerFencer().power(host(replace(device, system="1")))


async def test_a_controller_that_is_not_there_is_named(device: Redfish) -> None:
    with pytest.raises(FenceError, match=r"https://127.0.0.1:1 does not answer as it should: Connection refused"):
        await PowerFencer().power(host(replace(device, url="https://127.0.0.1:1")))


async def test_a_wrong_password_is_told_and_not_repeated(device: Redfish, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong horse\n")
    with pytest.raises(FenceError, match="refuses admin") as refused:
        await PowerFencer().power(host(device))
    assert "horse" not in refused.value.message + refused.value.remedy + repr(host(device))
