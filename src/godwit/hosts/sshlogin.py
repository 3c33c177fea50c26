"""Making one SSH connection: which keys are offered, which host keys are believed, and what each failure means."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh

from godwit.errors import AuthenticationError, GodwitError, HostKeyError, HostUnreachableError, InputError
from godwit.hosts.transport import CONNECT_DEADLINE

DEFAULT_PORT: Final = 22
_KEEPALIVE_INTERVAL: Final = 1
_KEEPALIVE_COUNT: Final = 2
"""A host that has gone silent is noticed after 3 s: two unanswered questions and the wait for the third."""

_CIPHERS: Final = "^aes256-gcm@openssh.com,aes128-gcm@openssh.com"
"""Asked for before the others: one call of a library a packet, where chacha20 takes three, a tenth of a move's work."""


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in to one host. `name` is the one it is registered under."""

    name: str
    host: str
    port: int = DEFAULT_PORT
    user: str = "root"
    identity_file: str | None = None
    known_hosts: str | None = None
    use_agent: bool = True

    @property
    def where(self) -> str:
        """How messages call the host."""
        return f"{self.name} ({self.user}@{self.address})"

    @property
    def address(self) -> str:
        """Host and port as people write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def known_hosts_file(self) -> Path:
        """The file that says which host keys are believed."""
        return Path(self.known_hosts or "~/.ssh/known_hosts").expanduser()

    @property
    def reach_remedy(self) -> str:
        """What to try by hand when the host is silent."""
        port = "" if self.port == DEFAULT_PORT else f" -p {self.port}"
        return f"see whether `ssh{port} {self.user}@{self.host} true` works, and whether the host is up"


class _Client(asyncssh.SSHClient):
    """Remembers the host key that was not believed, so that the message can show it."""

    def __init__(self) -> None:
        self.presented: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        self.presented = key
        return False


async def dial(login: Login) -> asyncssh.SSHClientConnection:
    """Return an open, authenticated connection.

    Raises HostUnreachableError, HostKeyError, AuthenticationError, or InputError for files that cannot be used.
    """
    known_hosts = _read_known_hosts(login)
    client = _Client()
    try:
        async with asyncio.timeout(CONNECT_DEADLINE):
            options = await _options(login, known_hosts)
            connection, _ = await asyncssh.create_connection(lambda: client, login.host, login.port, options=options)
    except asyncssh.HostKeyNotVerifiable as error:
        raise await _distrust(login, known_hosts, client.presented, error.reason) from None
    except asyncssh.KeyExchangeFailed as error:
        # A host that no longer has a key of the recorded kind ends here, before it shows any key.
        raise await _distrust(login, known_hosts, None, error.reason) from None
    except (OSError, asyncssh.Error) as error:
        raise _explain(login, error) from None
    return connection


def _read_known_hosts(login: Login) -> asyncssh.SSHKnownHosts:
    path = login.known_hosts_file
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""  # knows nobody: the message that follows shows the key and the mend
    except (OSError, UnicodeDecodeError) as error:
        message = f"the known hosts of {login.name} cannot be read: {path}: {error}"
        raise InputError(message) from None
    try:
        return asyncssh.import_known_hosts(text)
    except ValueError as error:
        message = f"the known hosts of {login.name} are malformed: {path}: {error}"
        raise InputError(message) from None


async def _options(login: Login, known_hosts: asyncssh.SSHKnownHosts) -> asyncssh.SSHClientConnectionOptions:
    keys, agent = _keys(login)
    options: asyncssh.SSHClientConnectionOptions = await asyncssh.SSHClientConnectionOptions.construct(
        username=login.user,
        known_hosts=known_hosts,
        client_keys=keys,
        agent_path=agent,
        config=None,
        preferred_auth="publickey",
        gss_host=None,
        keepalive_interval=_KEEPALIVE_INTERVAL,
        keepalive_count_max=_KEEPALIVE_COUNT,
        encryption_algs=_CIPHERS,
        connect_timeout=CONNECT_DEADLINE,
        login_timeout=CONNECT_DEADLINE,
    )
    return options


def _keys(login: Login) -> tuple[list[asyncssh.SSHKey] | tuple[()], tuple[()] | None]:
    """Return which keys to offer and whether to ask the agent (in asyncssh's words: () is its default).

    A named identity is offered alone, as with IdentitiesOnly: an agent full of others would use up the attempts that
    sshd grants (MaxAuthTries). Only an identity that needs a passphrase is left to the agent.
    """
    agent: tuple[()] | None = () if login.use_agent else None
    if login.identity_file is None:
        return (), agent
    path = Path(login.identity_file).expanduser()
    try:
        return [asyncssh.read_private_key(path)], None
    except (OSError, asyncssh.KeyImportError) as error:
        if "passphrase" in str(error).lower():  # asyncssh has no type of its own for a key that is locked
            if login.use_agent:
                return (), ()
            message = f"the key {path} for {login.where} needs a passphrase, and no agent may be used"
            raise AuthenticationError(message, remedy=f"allow the agent and load it: ssh-add {path}") from None
        message = f"the key {path} for {login.where} cannot be used: {error}"
        raise InputError(message, remedy="name an existing private key as identity file") from None


async def _distrust(
    login: Login, known_hosts: asyncssh.SSHKnownHosts, presented: asyncssh.SSHKey | None, reason: str
) -> GodwitError:
    """Say whether the host's key is unknown or changed, and show it."""
    if presented is None:
        presented = await _ask_key(login)
    shown = "no key at all" if presented is None else f"{presented.get_algorithm()} {presented.get_fingerprint()}"
    port = None if login.port == DEFAULT_PORT else login.port
    trusted, authorities, revoked, *_ = asyncssh.match_known_hosts(known_hosts, login.host, "", port)
    file = login.known_hosts_file
    entry = login.host if port is None else f"[{login.host}]:{login.port}"
    if presented is not None and presented in revoked:
        message = f"THE HOST KEY OF {login.where} IS REVOKED in {file}: it shows {shown}"
        return HostKeyError(message, remedy="somebody withdrew this key: ask who runs the host before you go on")
    if trusted or authorities:
        recorded = ", ".join(key.get_fingerprint() for key in trusted) or "a certificate of a recorded authority"
        message = (
            f"THE HOST KEY OF {login.where} HAS CHANGED: it shows {shown}, {file} has {recorded}. "
            f"Either the host was installed anew, or somebody is in between. ({reason})"
        )
        remedy = f"only if you know why: ssh-keygen -f {file} -R '{entry}', then record the new key with ssh-keyscan"
        return HostKeyError(message, remedy=remedy)
    message = f"the host key of {login.where} is not known: it shows {shown}, {file} has none for {entry}"
    remedy = (
        f"compare the fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then: "
        f"ssh-keyscan -p {login.port} {login.host} >> {file}; "
        f"another file is named by: godwit host add {login.name} ... --known-hosts FILE"
    )
    return HostKeyError(message, remedy=remedy)


async def _ask_key(login: Login) -> asyncssh.SSHKey | None:
    """Fetch the key that the host shows to anybody."""
    try:
        async with asyncio.timeout(CONNECT_DEADLINE):
            return await asyncssh.get_server_host_key(login.host, login.port, config=None)
    except (OSError, asyncssh.Error):
        return None


def _explain(login: Login, error: OSError | asyncssh.Error) -> GodwitError:
    if isinstance(error, asyncssh.PermissionDenied):
        tried = f"the key {login.identity_file}" if login.identity_file else "your default keys"
        if login.use_agent and not login.identity_file:
            tried += " and those of your SSH agent"
        message = f"{login.where} refused {tried}"
        remedy = (
            f"add the public key to ~{login.user}/.ssh/authorized_keys on the host (ssh-copy-id), "
            f"or name another with: godwit host add {login.name} ... --identity FILE"
        )
        return AuthenticationError(message, remedy=remedy)
    return HostUnreachableError(f"{login.where} cannot be reached: {_why(error)}", remedy=login.reach_remedy)


def _why(error: OSError | asyncssh.Error) -> str:
    if isinstance(error, asyncssh.Error):
        return error.reason or type(error).__name__
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer within {CONNECT_DEADLINE:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused, no SSH server listens there"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    return error.strerror or str(error)
