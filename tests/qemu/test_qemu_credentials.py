"""What QEMU is told so that it encrypts, and that nothing of it is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from godwit.errors import HypervisorError, MonitorCommandError
from godwit.qemu import credentials, mirrors
from godwit.qemu.credentials import CREDENTIALS, LET_IN

if TYPE_CHECKING:
    from collections.abc import Mapping

LACKS = "TLS credentials support requires GNUTLS"


@dataclass
class Monitor:
    """A QEMU that has objects and parameters, and takes no duplicate; `lacks` is why it makes no object."""

    objects: dict[str, dict[str, object]] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)
    servers: list[Mapping[str, object]] = field(default_factory=list)
    lacks: str = ""
    knows_authz: bool = True
    version: tuple[int, int, int] = (10, 0, 2)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        told = dict(arguments or {})
        name = str(told.get("id", ""))
        match command:
            case "object-add" if self.lacks:
                raise MonitorCommandError(self.lacks)
            case "object-add" if name in self.objects:
                raise MonitorCommandError(f"attempt to add duplicate property '{name}' to object (type 'container')")
            case "object-add":
                self.objects[name] = told
            case "object-del" if name not in self.objects:
                raise MonitorCommandError(f"object '{name}' not found")
            case "object-del":
                del self.objects[name]
            case "migrate-set-parameters" if "tls-authz" in told and not self.knows_authz:
                raise MonitorCommandError("Parameter 'tls-authz' is unexpected")
            case "migrate-set-parameters":
                self.parameters |= told
            case "nbd-server-start":
                self.servers.append(told)
            case "query-block":
                return []
        return {}


async def test_a_server_lets_in_one_client_by_its_exact_name_and_nobody_else() -> None:
    monitor = Monitor()
    await credentials.use(monitor, "/run/godwit-tls/web-1", let_in="CN=web-1")

    tls, listed = monitor.objects[CREDENTIALS], monitor.objects[LET_IN]
    assert (tls["endpoint"], tls["verify-peer"], tls["dir"]) == ("server", True, "/run/godwit-tls/web-1")
    assert listed["policy"] == "deny"
    assert listed["rules"] == [{"match": "CN=web-1", "policy": "allow", "format": "exact"}]
    assert monitor.parameters == {"tls-creds": CREDENTIALS, "tls-authz": LET_IN}


async def test_a_client_believes_only_who_has_the_name() -> None:
    monitor = Monitor()
    await credentials.use(monitor, "/run/godwit-tls/web-1", far="192.0.2.2")

    assert list(monitor.objects) == [CREDENTIALS]
    assert (monitor.objects[CREDENTIALS]["endpoint"], monitor.objects[CREDENTIALS]["verify-peer"]) == ("client", True)
    assert monitor.parameters == {"tls-creds": CREDENTIALS, "tls-hostname": "192.0.2.2"}


async def test_what_a_former_move_has_left_is_replaced() -> None:
    monitor = Monitor()
    await credentials.use(monitor, "/run/godwit-tls/web-1", let_in="CN=web-1")
    await credentials.use(monitor, "/run/godwit-tls/web-2", let_in="CN=web-2")

    assert monitor.objects[CREDENTIALS]["dir"] == "/run/godwit-tls/web-2"
    assert "web-2" in str(monitor.objects[LET_IN]["rules"])


@pytest.mark.parametrize("knows_authz", [True, False])
async def test_afterwards_nothing_is_left_however_often_it_is_asked_for(*, knows_authz: bool) -> None:
    monitor = Monitor(knows_authz=True)
    await credentials.use(monitor, "/run/godwit-tls/web-1", let_in="CN=web-1", far="192.0.2.2")
    monitor.knows_authz = knows_authz
    for _ in range(2):
        await credentials.forget(monitor)

    assert monitor.objects == {}
    assert (monitor.parameters["tls-creds"], monitor.parameters["tls-hostname"]) == ("", "")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (LACKS, "--plaintext"),
        ("Parameter 'qom-type' does not accept value 'tls-creds-x509'", "--plaintext"),
        ("Unable to access credentials /run/x/ca-cert.pem: No such file or directory", "godwit tls check"),
    ],
)
async def test_a_qemu_that_cannot_says_why_and_what_mends_it(words: str, remedy: str) -> None:
    with pytest.raises(HypervisorError, match=words.split(maxsplit=1)[0]) as raised:
        await credentials.use(Monitor(lacks=words), "/run/x", far="192.0.2.2")

    assert remedy in raised.value.remedy


@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_server_of_disks_asks_for_certificates_where_it_is_to(*, encrypted: bool) -> None:
    monitor = Monitor()
    await mirrors.serve(monitor, "192.0.2.2", 49152, (), encrypted=encrypted)
    (server,) = monitor.servers

    assert server.get("tls-creds") == (CREDENTIALS if encrypted else None)
    assert server.get("tls-authz") == (LET_IN if encrypted else None)
    assert int(str(server["max-connections"])) == (credentials.STRANGERS if encrypted else 0)


def test_a_client_of_disks_checks_the_name_that_a_certificate_can_have() -> None:
    assert credentials.reached("192.0.2.2", "192.0.2.2", encrypted=False) == {}
    assert credentials.reached("192.0.2.2", "192.0.2.2", encrypted=True) == {"tls-creds": CREDENTIALS}
    assert credentials.reached("fe80::2%mig0", "fe80::2", encrypted=True)["tls-hostname"] == "fe80::2"
