"""Disks behind servers of others: NFS (nfs-ganesha, through QEMU's own driver) and NBD (nbdkit); and a TPM (swtpm)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from bareguest import Bare, adopt, launch, make, new_name, start
from byhand import qmp

from godwit.errors import HypervisorError, RefusedError
from godwit.lab import assets
from godwit.lab.assets import Tree

if TYPE_CHECKING:
    from pathlib import Path

    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

EXPORT: Final = "/run/nfs/export"
"""What the client's machine exports; its /run is its own, and in memory."""

GANESHA: Final = f"""
NFS_CORE_PARAM {{ Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }}
NFS_KRB5 {{ Active_krb5 = false; }}
NFSv4 {{ RecoveryRoot = /run/nfs; }}
EXPORT {{
    Export_Id = 1; Path = {EXPORT}; Pseudo = /export; Protocols = 3; Transports = TCP;
    Access_Type = RW; Squash = None; SecType = sys;
    FSAL {{ Name = VFS; }}
}}
"""

SERVE_NFS: Final = f"""
mkdir -p {EXPORT} /run/ganesha /run/rpcbind
# rpcbind becomes this user; a machine without the package has none, and nothing is installed here.
grep -q ^_rpc: /etc/passwd || echo _rpc:x:75:65534::/run/rpcbind:/usr/sbin/nologin >>/etc/passwd
rpcbind -w
ganesha.nfsd -f /run/nfs/ganesha.conf -L /run/nfs/log -p /run/nfs/pid
for i in $(seq 300); do
    grep -q "SERVER INITIALIZED" /run/nfs/log && rpcinfo -t 127.0.0.1 nfs 3 >/dev/null 2>&1 && exit 0
    sleep 0.1
done
cat /run/nfs/log
exit 1
"""


@pytest.fixture(scope="module")
def host_tree() -> Path:
    """Return the tree whose hosts have QEMU's network drivers and servers for them."""
    return assets.prepare(assets.cache_folder(), print, Tree.STORAGE).trees[Tree.STORAGE]


@pytest.fixture(scope="module")
def ground(bare_ground: Ground) -> Ground:
    """Return a laboratory whose hosts share nothing; its guests are bare QEMUs."""
    return bare_ground


@pytest.fixture(scope="module")
def nfs(ground: Ground) -> str:
    """Serve a folder over NFS from the client's machine; returns its address."""
    make(ground, "client", "sh", "-c", f"mkdir -p /run/nfs && cat >/run/nfs/ganesha.conf <<'END'\n{GANESHA}\nEND")
    make(ground, "client", "sh", "-c", SERVE_NFS)
    return f"nfs://{ground.lab.plan.management_address('client')}{EXPORT}"


def attached(url: str, image_format: str) -> tuple[str, ...]:
    return (
        *("-drive", f"file={url},format={image_format},if=none,id=d0"),
        *("-device", "virtio-blk-pci,drive=d0"),
    )


def read_back(ground: Ground, machine: str, url: str, image_format: str) -> str:
    """Read through that machine what the tests write."""
    command = ("qemu-io", "-U", "-r", "-f", image_format, "-c", "read -P 9 2M 64k", url)
    return make(ground, machine, *command)


async def assert_shared(bare: Bare, url: str, image_format: str) -> None:
    """Nothing is copied, there and back, and what is written on either host is what the other reads."""
    copied = await bare.move("--disks", "full")
    assert copied.status == RefusedError.exit_status
    assert f"both hosts get the same from {url}" in copied.err
    for _ in range(2):
        moved = await bare.move()
        assert moved.status == 0, moved
        assert "copying disks" not in moved.out
        bare.write("d0", "-P", "9", "2M", "64k")
        said = read_back(bare.ground, bare.elsewhere, url, image_format)
        assert "Pattern verification failed" not in said
        assert "read 65536" in said
        bare.write("d0", "-P", "8", "2M", "64k")
    assert bare.left("host1") == bare.left("host2") == []


@pytest.mark.parametrize("image_format", [pytest.param("raw", marks=pytest.mark.long), "qcow2"])
async def test_an_image_on_an_nfs_server_is_shared(ground: Ground, nfs: str, image_format: str) -> None:
    name = new_name()
    url = f"{nfs}/{name}.img"
    make(ground, "host2", "qemu-img", "create", "-q", "-f", image_format, url, "16M")
    bare = await start(ground, name, *attached(url, image_format))
    try:
        await assert_shared(bare, url, image_format)
    finally:
        await bare.end()


@pytest.mark.long
async def test_an_nfs_server_that_the_target_does_not_reach_is_named(ground: Ground, nfs: str) -> None:
    name = new_name()
    url = f"{nfs}/{name}.img"
    make(ground, "host1", "qemu-img", "create", "-q", "-f", "raw", url, "16M")
    bare = await start(ground, name, *attached(url, "raw"))
    server = ground.lab.plan.management_address("client")
    make(ground, "host2", "ip", "route", "add", "unreachable", server)
    try:
        refused = await bare.move()
        assert refused.status == RefusedError.exit_status, refused
        assert url in refused.err
        assert "host2" in refused.err
        make(ground, "host2", "ip", "route", "del", "unreachable", server)
        assert (await bare.move()).status == 0
    finally:
        await bare.end()


async def test_two_servers_that_serve_different_disks_at_one_address_are_no_shared_disk(ground: Ground) -> None:
    """Each host reaches another nbdkit under the same address, as behind a wrong route or name."""
    name = new_name()
    address = "203.0.113.9"
    for machine, fill in (("host1", "1"), ("host2", "2")):
        make(ground, machine, "ip", "address", "add", f"{address}/32", "dev", "lo")
        data = f"data=({fill})*65536 @16777215 0"
        make(ground, machine, "nbdkit", "-i", address, "-p", "10809", "-P", f"/run/{name}.pid", "data", data)
    url = f"nbd://{address}:10809"
    bare = await start(ground, name, *attached(url, "raw"))
    try:
        refused = await bare.move()
        assert refused.status == RefusedError.exit_status, refused
        assert url in refused.err
    finally:
        await bare.end()
        for machine in ("host1", "host2"):
            make(ground, machine, "sh", "-c", f"kill $(cat /run/{name}.pid)")
            make(ground, machine, "ip", "address", "del", f"{address}/32", "dev", "lo")


async def test_a_disk_that_nbdkit_serves_is_shared(ground: Ground) -> None:
    name = new_name()
    server = ground.lab.plan.management_address("client")
    make(ground, "client", "nbdkit", "-i", server, "-P", "/run/nbdkit.pid", "memory", "16M")
    url = f"nbd://{server}:10809"
    bare = await start(ground, name, *attached(url, "raw"))
    try:
        await assert_shared(bare, url, "raw")
    finally:
        await bare.end()
        make(ground, "client", "sh", "-c", "kill $(cat /run/nbdkit.pid)")


async def test_a_guest_with_a_tpm_is_refused_by_name(ground: Ground) -> None:
    name = new_name()
    folder = f"/run/{name}.tpm"
    state = ("--tpmstate", f"dir={folder}", "--ctrl", f"type=unixio,path={folder}/ctrl")
    make(ground, "host1", "mkdir", folder)
    make(ground, "host1", "swtpm", "socket", "--tpm2", *state, "--pid", f"file={folder}/swtpm.pid", "--daemon")
    options = (
        *("-pidfile", f"{folder}/qemu.pid"),
        *("-chardev", f"socket,id=chrtpm,path={folder}/ctrl", "-tpmdev", "emulator,id=tpm0,chardev=chrtpm"),
        *("-device", "tpm-crb,tpmdev=tpm0"),
    )
    launch(ground, name, *options)
    try:
        refused = await adopt(ground, name)
        assert refused.status == HypervisorError.exit_status, refused
        assert "it has the TPM tpm0 (emulator)" in refused.err
        assert "start it without that" in refused.err
        path = f"/proc/{ground.init('host1')}/root/run/{name}.sock"
        assert qmp(path, {"execute": "query-status"})[0]["running"] is True
    finally:
        make(ground, "host1", "sh", "-c", f"kill $(cat {folder}/qemu.pid)")  # swtpm ends with its client
