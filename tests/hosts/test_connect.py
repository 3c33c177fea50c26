from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from godwit.errors import InputError
from godwit.hosts.connect import open_host, parse_login
from godwit.model import HostRecord

if TYPE_CHECKING:
    from godwit.ports import Host


@pytest.mark.parametrize(
    ("url", "user", "host", "port"),
    [
        ("ssh://root@host2", "root", "host2", 22),
        ("ssh://kvm-admin@host2.example.org:2222", "kvm-admin", "host2.example.org", 2222),
        ("ssh://host2", "root", "host2", 22),
        ("ssh://root@198.18.0.11/", "root", "198.18.0.11", 22),
        ("ssh://root@[2001:db8::1]:2200", "root", "2001:db8::1", 2200),
        ("ssh://root@[fe80::1%eth0]", "root", "fe80::1%eth0", 22),
    ],
)
def test_a_url_says_who_and_where(url: str, user: str, host: str, port: int) -> None:
    login = parse_login(HostRecord("h", url))
    assert (login.user, login.host, login.port) == (user, host, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "remote",
        "http://host",
        "ssh://",
        "ssh://root@",
        "ssh://root@host:0",
        "ssh://root@host:65536",
        "ssh://root@host:port",
        "ssh://root:secret@host",
        "ssh://root@2001:db8::1",
        "ssh://root@host/path",
        "ssh://root@-oProxyCommand=x",
        "ssh://root@host name",
        "ssh://ro ot@host",
        "ssh://root@host\n",
    ],
)
def test_nonsense_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(InputError, match="cannot be meant") as caught:
        open_host(HostRecord("h", url))
    assert "ssh://user@host" in caught.value.remedy


def test_local_and_remote_hosts_are_hosts_and_keep_their_names() -> None:
    hosts: list[Host] = [open_host(HostRecord("here", "local")), open_host(HostRecord("there", "ssh://root@h"))]
    assert [host.name for host in hosts] == ["here", "there"]
