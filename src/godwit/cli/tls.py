"""Commands about certificates: init, issue, check, rotate, and encryption off and on for good."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.cli.ground import Json, ended_gently, print_json, print_section, print_table, run, service
from godwit.cli.terminal import echo
from godwit.errors import TlsError
from godwit.units import format_duration

if TYPE_CHECKING:
    from godwit.encryption import Checked, Encryption
    from godwit.model import CertificateFacts
    from godwit.service import Service

app = typer.Typer(help="Certificates that encrypted moves rest on.", no_args_is_help=True)

HostName = Annotated[str, typer.Argument(metavar="HOST", help="The host's name.", show_default=False)]
_DAY = 86400.0


def _ask(opened: Service) -> Encryption:
    from godwit import encryption  # noqa: PLC0415 - start-up time

    return encryption.Encryption(opened)


@app.command("init")
def init(*, json: Json = False) -> None:
    """Make the certificate authority; the first move does so by itself."""
    run(_init(json))


async def _init(as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        facts, made = await _ask(opened).begin()
        folder = opened.authority.folder
    if as_json:
        print_json({"folder": folder, "made": made, "authority": facts})
        return
    echo(f"made a certificate authority in {folder}" if made else f"there is one already, in {folder}")
    echo(f"  fingerprint  {facts.fingerprint}")
    echo(f"  until        {_until(facts)}")


@app.command("issue")
def issue(
    host: HostName,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where they are to lie; made, if need be.", show_default=False)
    ],
    *,
    json: Json = False,
) -> None:
    """Make out certificates for using QEMU by hand: for a host's migration address, for a week."""
    run(_issue(host, folder, json))


async def _issue(host: str, folder: Path, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        issued = await _ask(opened).issue(host, folder)
    if as_json:
        print_json(issued)
        return
    until = datetime.fromtimestamp(issued.valid_until, UTC).strftime("%Y-%m-%d")
    echo(f"both ends of connections to {host} at {issued.address} are certified until {until}")
    echo(f"  folder  {issued.folder}  (dir= of tls-creds-x509)")
    echo(f"  client  {issued.identity}  (identity= of authz-simple)")


@app.command("check")
def check(
    host: Annotated[
        str | None, typer.Argument(metavar="[HOST]", help="The host; all, if none is named.", show_default=False)
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Show what holds until when, and let both ends of a connection meet on each host."""
    run(_check(host, json))


async def _check(host: str | None, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        names = [host] if host else [record.name for record in await opened.inventory.hosts()]
        with ended_gently():
            found = await _ask(opened).check(names)
    troubles = list(found.troubles())
    if as_json:
        print_json(_as_data(found))
        if troubles:
            raise typer.Exit(TlsError.exit_status)
        return
    _show(found)
    for warning in found.warnings():
        echo(f"warning: {warning}")
    if troubles:
        for message, _ in troubles[1:]:
            echo(f"godwit: error: {message}", err=True)
        raise TlsError(troubles[0][0], remedy=troubles[0][1])


def _as_data(found: Checked) -> dict[str, object]:
    return {
        "folder": found.folder,
        "encryption": not found.off,
        "authority": found.authority,
        "hosts": found.hosts,
        "works": not list(found.troubles()),
        "troubles": [message for message, _ in found.troubles()],
        "warnings": list(found.warnings()),
    }


def _show(found: Checked) -> None:
    if found.authority is None:
        echo(f"no certificate authority yet: the first move makes one in {found.folder}, or godwit tls init")
        return
    facts = {
        "folder": found.folder,
        "fingerprint": found.authority.fingerprint,
        "until": _until(found.authority, found.now),
    }
    print_section(f"certificate authority {found.authority.subject}", facts)
    rows = [(one.host, one.address or "-", "fails" if one.trouble else "works") for one in found.hosts]
    print_table(("host", "address", "encryption"), rows, empty="no hosts yet")


def _until(facts: CertificateFacts, now: float | None = None) -> str:
    """Return the day on which a certificate ends, and how far away that is."""
    day = datetime.fromtimestamp(facts.valid_until, UTC).strftime("%Y-%m-%d")
    if now is None:
        return day
    left = facts.valid_until - now
    if left <= 0:
        return f"{day} (expired)"
    return f"{day} ({left / _DAY:.0f} days)" if left > 2 * _DAY else f"{day} ({format_duration(left)})"


@app.command("rotate")
def rotate(*, json: Json = False) -> None:
    """Replace the certificate authority at once; moves under way go on with what they have."""
    run(_rotate(json))


async def _rotate(as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        facts = await _ask(opened).rotate()
    if as_json:
        print_json({"authority": facts})
        return
    echo(f"a new certificate authority is in use: {facts.fingerprint}")
    echo("the former one is destroyed, and trusted by nothing that begins from now on")


@app.command("off")
def off() -> None:
    """Let all moves travel in the clear from now on."""
    run(_switch(off=True))
    echo("moves are NOT encrypted from now on, nor do their two ends prove who they are; godwit tls on ends that")


@app.command("on")
def on() -> None:
    """Encrypt moves again, unless --plaintext is given."""
    run(_switch(off=False))
    echo("moves are encrypted from now on")


async def _switch(*, off: bool) -> None:
    async with service() as opened:
        await _ask(opened).switch(off=off)
