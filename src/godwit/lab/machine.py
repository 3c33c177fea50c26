"""One machine of a laboratory: the files that make it differ from its neighbours, and its start."""

from __future__ import annotations

import socket
import time
import uuid
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.errors import LabError
from godwit.lab import plan as names
from godwit.lab.namespaces import SEARCH_PATH, ProcessId, namespace_file, run

if TYPE_CHECKING:
    from godwit.lab.plan import LabPlan

SSH_PORT: Final = 22
READY_DEADLINE: Final = 15.0
IMAGES: Final = Path("/mnt/images")
"""Where every host has its images; with shared storage it is the same folder on all."""

_RETRY: Final = 0.005
_OWN_FOLDER: Final = "godwit-lab"

_SSHD_CONFIG: Final = """\
ListenAddress {address}
Port {port}
HostKey /etc/{folder}/host_key
AuthorizedKeysFile /etc/{folder}/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
UseDNS no
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
MaxSessions 1000
MaxStartups 1000
MaxAuthTries 20
PrintMotd no
PrintLastLog no
AcceptEnv LANG LC_*
SetEnv PATH={path}
Subsystem sftp internal-sftp
"""

# QEMU calls these for a tap without script= (net/tap.c), with the interface's name.
_IFUP: Final = f"""\
#!/bin/sh
set -e
ip link set dev "$1" mtu {names.LINK_MTU} addrgenmode none
ip link set dev "$1" master {names.HOST_BRIDGE} up
"""
_IFDOWN: Final = """\
#!/bin/sh
ip link set dev "$1" nomaster down
"""


@dataclass(frozen=True, slots=True)
class MachineFolders:
    """Where a machine's things are: `home` is removed with the laboratory's record, `data` outlives a crash."""

    home: Path
    data: Path
    images: Path

    @property
    def log(self) -> Path:
        """What the machine's init and its sshd printed."""
        return self.home / "log"


def make_key(path: Path, comment: str) -> str:
    """Make a key pair without a passphrase at `path`, and return the public half without its comment."""
    path.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    kind, key, *_ = path.with_suffix(".pub").read_text().split()
    return f"{kind} {key}"


def prepare(plan: LabPlan, machine: str, folders: MachineFolders, authorized_key: str) -> str:
    """Lay out the machine's folders and its part of /etc; returns its public host key."""
    folders.data.mkdir(parents=True, exist_ok=True)
    folders.images.mkdir(parents=True, exist_ok=True)
    etc = folders.home / "etc"
    own = etc / _OWN_FOLDER
    own.mkdir(parents=True)
    host_key = make_key(own / "host_key", f"root@{machine}")
    config = _SSHD_CONFIG.format(
        address=plan.management_address(machine), port=SSH_PORT, folder=_OWN_FOLDER, path=SEARCH_PATH
    )
    (own / "sshd_config").write_text(config)
    (own / "authorized_keys").write_text(f"{authorized_key}\n")
    (own / "hostinit.sh").write_text((resources.files("godwit.lab") / "hostinit.sh").read_text())
    (etc / "hostname").write_text(f"{machine}\n")
    (etc / "hosts").write_text(_hosts_file(plan))
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    _write_accounts(etc)
    for name, text in (("qemu-ifup", _IFUP), ("qemu-ifdown", _IFDOWN)):
        (etc / name).write_text(text)
        (etc / name).chmod(0o755)
    (etc / "qemu").mkdir()
    (etc / "qemu" / "bridge.conf").write_text(f"allow {names.HOST_BRIDGE}\n")
    return host_key


def start(plan: LabPlan, machine: str, folders: MachineFolders, host_tree: Path | None, lock: int) -> ProcessId:
    """Start a machine in its existing network namespace, and return its init once its sshd listens.

    The machine survives the end of this process. Raises LabError with the machine's own words if it does not come up.
    """
    kind = "client" if machine == names.CLIENT else "host"
    places = [str(folders.home), str(folders.data), str(folders.images), str(host_tree or "")]
    argv = ["nsenter", f"--net={namespace_file(plan.namespace(machine))}"]
    argv += ["unshare", "--mount", "--uts", "--propagation", "private"]
    argv += [
        "sh",
        str(folders.home / "etc" / _OWN_FOLDER / "hostinit.sh"),
        "build",
        f"{plan.name}/{machine}",
        kind,
        *places,
    ]
    init = ProcessId.of(int(run(argv, stdin=lock)))
    _wait_for_ssh(plan.management_address(machine), machine, init, folders.log)
    return init


def _wait_for_ssh(address: str, machine: str, init: ProcessId, log: Path) -> None:
    """Return once `address` accepts SSH connections: another program's listen() gives no event to wait for."""
    deadline = time.monotonic() + READY_DEADLINE
    while time.monotonic() < deadline and init.alive():
        try:
            socket.create_connection((address, SSH_PORT), timeout=1).close()
        except OSError:  # refused or no answer yet: that is what is being waited for
            time.sleep(_RETRY)
        else:
            return
    message = f"{machine} did not come up: {log.read_text(errors='replace').strip()[-2000:] or 'no output'}"
    raise LabError(message)


def _hosts_file(plan: LabPlan) -> str:
    rows = [("127.0.0.1", "localhost"), (plan.controller_address, "controller")]
    rows += [(plan.management_address(machine), machine) for machine in plan.machine_names]
    rows += [(plan.migration_address(host), f"{host}-{names.HOST_MIGRATION}") for host in plan.host_names]
    return "".join(f"{address}\t{name}\n" for address, name in rows)


def _write_accounts(etc: Path) -> None:
    """Copy the machine's accounts without their passwords; sshd's unprivileged user is among them.

    Without PAM, sshd refuses an account whose password field starts with `!`, whatever key it shows (sshd_config(5)).
    """
    passwd = Path("/etc/passwd").read_text()
    if not any(line.startswith("sshd:") for line in passwd.splitlines()):
        passwd += "sshd:x:74:65534::/run/sshd:/usr/sbin/nologin\n"
    (etc / "passwd").write_text(passwd)
    users = [line.split(":")[0] for line in passwd.splitlines() if ":" in line]
    (etc / "shadow").touch(mode=0o600)
    (etc / "shadow").write_text("".join(f"{user}:*:19000:0:99999:7:::\n" for user in users))
