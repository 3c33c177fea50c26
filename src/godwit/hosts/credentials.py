"""What plain hosts have to do with certificates: keeping them for the length of a move, and trying them.

Keys reach a host on a shell's standard input. There they lie below /run, in a folder for this guest that is the login's
own, as the files in it are. A QEMU that runs as another user may read them, and do nothing else there. They end with
the move, or with the boot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, TlsError
from godwit.hosts.shell import run_script
from godwit.storage import transfer
from godwit.storage.sharedproof import check_token

if TYPE_CHECKING:
    from godwit.hosts.transport import Transport
    from godwit.model import Credentials, Pair

HANDSHAKE_DEADLINE: Final = 30.0

PUT: Final = (
    transfer.FOLDER
    + r"""
owner=$1 role=$2 pid=$3
number() { sed -n "s/^$1:[[:space:]]*[0-9]*[[:space:]]*\([0-9]*\).*/\1/p" "/proc/$pid/status" 2>/dev/null; }
# Whether nobody but user $1 is in group $2, as far as this host knows of users.
alone() {
    [ "$2" != 0 ] && command -v getent > /dev/null || return 1
    name=$(getent passwd "$1" | cut -d: -f1)
    ! getent group "$2" | cut -d: -f4 | tr ',' '\n' | grep -vxF -e "$name" -e '' | grep -q . &&
        ! getent passwd | cut -d: -f3,4 | grep ":$2\$" | grep -qv "^$1:"
}
# Let user $1 of group $2 read what stays our own, and nobody else.
hand() {
    user=$1 group=$2
    set -- "$keys/ca-cert.pem" "$keys/$role-cert.pem" "$keys/$role-key.pem"
    [ "$role" = client ] || set -- "$@" "$keys/dh-params.pem"
    if ! setfacl -m "u:$user:r" -- "$@" 2>/dev/null; then
        alone "$user" "$group" || { echo "setfacl fails, and others than user $user are in group $group"; return 1; }
        chgrp -- "$group" "$@" && chmod 640 -- "$@" || return 1
    fi
    chmod 711 -- "$keys"
}
keys=$(kept "$role" 2>&1) || { echo "failed $keys"; exit 0; }
user=
[ -z "$pid" ] || user=$(number Uid)
if [ -n "$user" ] && [ "$user" != 0 ] && [ "$(id -u)" = 0 ]; then
    said=$(hand "$user" "$(number Gid)" 2>&1) || { discard "$owner"; echo "failed $said"; exit 0; }
fi
echo "kept $keys"
"""
)
"""$1 names whose they are, $2 is client or server, $3 the process that is to read them, if that is known."""

REMOVE: Final = (
    transfer.FOLDER
    + r"""
left=$(discard "$1" 2>&1) || echo "failed $left"
"""
)
"""$1 names whose they were."""

HANDSHAKE: Final = (
    transfer.FOLDER
    + r"""
owner=$1 address=$2 port=$3 identity=$4 plain=$5 encrypted=$6
for program in qemu-nbd qemu-img; do
    command -v "$program" > /dev/null || { echo "failed there is no $program"; exit 0; }
done
umask 077
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; discard "$owner"' EXIT
trap 'exit 1' HUP INT PIPE TERM
folder=$(kept server 2>&1) || { echo "failed $folder"; exit 0; }
certificate=$client_certificate key=$client_key
folder=$(kept client 2>&1) || { echo "failed $folder"; exit 0; }
truncate -s 65536 -- "$folder/image"
timeout -k 2 20 qemu-nbd -r -f raw -t -e 8 -x "$owner" -b "$address" -p "$port" --pid-file="$folder/pid" \
    --object "tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir=$folder" \
    --object "authz-simple,id=let-in,identity=$identity" --tls-creds tls --tls-authz let-in \
    -- "$folder/image" > "$folder/log" 2>&1 < /dev/null &
server=$!
tries=100
until [ -s "$folder/pid" ]; do
    kill -0 "$server" 2>/dev/null && [ "$tries" -gt 0 ] || { echo "failed $(tr '\n' ' ' < "$folder/log")"; exit 0; }
    tries=$((tries - 1))
    sleep 0.05
done
ask() { timeout -k 1 5 qemu-img info -U "$@" 2>&1 < /dev/null; }
said=$(ask --object "tls-creds-x509,id=tls,endpoint=client,verify-peer=on,dir=$folder" -f raw "$encrypted") || {
    echo "failed $said; $(tr '\n' ' ' < "$folder/log")"
    exit 0
}
! ask -f raw "$plain" > /dev/null || { echo "failed somebody without a certificate was let in"; exit 0; }
echo "works"
"""
)
"""$1 names the trial, $2 and $3 are where it listens, $4 who is let in, $5 and $6 are how
qemu-img is told of what is served, without encryption and with it."""

_NO_ACL: Final = "install setfacl there (the package is called acl), or move it unencrypted: --plaintext"
_NO_PLACE: Final = "see the rights and the room of /run there"
_MEND: Final = "install a QEMU that is built with GnuTLS there; godwit migrate --plaintext does without encryption"


class KeepsCredentials:
    """The part of the port `Host` that has to do with certificates; `_transport` is the way to this host."""

    _transport: Transport

    async def put_credentials(self, owner: str, role: str, credentials: Credentials, pid: int | None = None) -> str:
        """Keep one end's credentials for `owner`; returns the folder. See the port."""
        arguments = (check_token(owner), role, str(pid or ""))
        completed = await run_script(self._transport, PUT, *arguments, private=private_of(credentials))
        word, _, rest = completed.stdout.decode(errors="replace").strip().partition(" ")
        if word != "kept":
            message = f"{self._transport.where} cannot keep the keys of {owner}: {rest or 'the shell said nothing'}"
            raise HostError(message, remedy=_NO_ACL if "setfacl" in rest else _NO_PLACE)
        return rest

    async def remove_credentials(self, owner: str) -> None:
        """Remove all that is kept for `owner`. Idempotent."""
        completed = await run_script(self._transport, REMOVE, check_token(owner))
        word, _, rest = completed.stdout.decode(errors="replace").strip().partition(" ")
        if word == "failed":
            message = f"the keys of {owner} are left on {self._transport.where}: {rest}"
            raise HostError(message, remedy="remove them there by hand")

    async def try_handshake(self, owner: str, pair: Pair, address: str, port: int) -> None:
        """Let a server and a client of this host meet at its address, encrypted. Raises TlsError, see the port."""
        private = private_of(pair.server)
        private |= {"client_certificate": pair.client.certificate, "client_key": pair.client.key}
        plain = transfer.place_of(address, port, owner)
        arguments = (check_token(owner), address, str(port), pair.identity, plain, transfer.encrypted(plain))
        completed = await run_script(
            self._transport, HANDSHAKE, *arguments, private=private, deadline=HANDSHAKE_DEADLINE
        )
        said = completed.stdout.decode(errors="replace").strip()
        if said != "works":
            words = said.partition(" ")[2].strip() or "the shell said nothing"
            message = f"a trial of encryption on {self._transport.where} at {address} failed: {words}"
            raise TlsError(message, remedy=_MEND)


def private_of(credentials: Credentials) -> dict[str, str]:
    """Return the variables with which a script gets one end's credentials."""
    return {
        "authorities": credentials.authorities.strip(),
        "certificate": credentials.certificate.strip(),
        "key": credentials.key.strip(),
    }
