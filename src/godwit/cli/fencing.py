"""Commands that cut a dead host's power, and that say with what: host fence, host fencing."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from godwit.cli.ground import Json, print_json, print_section, run, service
from godwit.cli.terminal import echo
from godwit.errors import FenceError, InputError

if TYPE_CHECKING:
    from godwit.model import FenceCommand, HostRecord, Redfish

Name = Annotated[str, typer.Argument(metavar="NAME", help="The host's name.", show_default=False)]


def fence(
    name: Name,
    *,
    status: Annotated[bool, typer.Option("--status", metavar="", help="Only ask whether it is off.")] = False,
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="Cut its power, whatever dies with it.")] = False,
    json: Json = False,
) -> None:
    """Cut a dead host's power and prove that it is off; every guest on it dies.

    What is proven counts as evidence for migrations until the host answers again, for a quarter of an hour at most.
    """
    if status and yes:
        message = "--status changes nothing, and --yes has nothing to permit"
        raise InputError(message)
    run(_status(name, as_json=json) if status else _fence(name, yes=yes, as_json=json))


async def _fence(name: str, *, yes: bool, as_json: bool) -> None:
    from godwit.cli.recovering import fence_host  # noqa: PLC0415 - start-up time
    from godwit.recovering import Recovery  # noqa: PLC0415 - start-up time

    async with service(carries=True) as opened:
        record = await opened.inventory.host(name)
        if record.fence is None:
            message = f"nothing is known that cuts the power of {name}"
            raise FenceError(message, remedy=f"godwit host fencing {name} --help")
        await fence_host(Recovery(opened), name, yes=yes, as_json=as_json)


async def _status(name: str, *, as_json: bool) -> None:
    from godwit.recovering import Recovery  # noqa: PLC0415 - start-up time

    async with service() as opened:
        power = await Recovery(opened).power(name)
    if as_json:
        print_json({"host": name, "off": power.off, "said": power.said})
        return
    echo(f"{name} is {'off' if power.off else 'NOT proven to be off'}: {power.said}")


def fencing(  # noqa: PLR0913 - the options
    name: Name,
    *,
    off_command: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Cuts its power; \\{host} stands for its name. No shell.")
    ] = None,
    status_command: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Ends with 0 if it is off, else with another status.")
    ] = None,
    redfish: Annotated[
        str | None, typer.Option(metavar="URL", help="Its management controller: https://ADDRESS.")
    ] = None,
    user: Annotated[str, typer.Option(metavar="NAME", help="Who logs in there.", show_default=False)] = "",
    password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Holds the password; only its owner may read it.")
    ] = None,
    password_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="The environment variable that holds it.")
    ] = None,
    system: Annotated[
        str, typer.Option(metavar="ID", help="Which system, if it has several.", show_default=False)
    ] = "",
    ca: Annotated[str | None, typer.Option(metavar="FILE", help="What its certificate is verified with.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", metavar="", help="Do not verify its certificate: anybody may answer for it.")
    ] = False,
    automatic: Annotated[
        bool,
        typer.Option("--automatic", metavar="", help="Cut it without asking, where only its silence leads to limbo."),
    ] = False,
    none: Annotated[bool, typer.Option("--none", metavar="", help="Forget what cuts its power.")] = False,
    json: Json = False,
) -> None:
    """Say what cuts a host's power when it is dead: two commands, or Redfish. Without options it shows that."""
    asked = _Asked(off_command, status_command, redfish, user, password_file, password_env, system, ca, insecure)
    given = asked != _Asked()
    if none and (given or automatic):
        message = "--none forgets what the other options say"
        raise InputError(message)
    if automatic and not given:
        message = "--automatic goes with what cuts the host's power"
        raise InputError(
            message, remedy=f"godwit host fencing {name} --off-command ... --status-command ... --automatic"
        )
    device = asked.device() if given else None
    run(_fencing(name, device, change=given or none, automatic=automatic, as_json=json))


@dataclass(frozen=True, slots=True)
class _Asked:
    off_command: str | None = None
    status_command: str | None = None
    redfish: str | None = None
    user: str = ""
    password_file: str | None = None
    password_env: str | None = None
    system: str = ""
    ca: str | None = None
    insecure: bool = False

    def device(self) -> FenceCommand | Redfish:
        """Return what is meant. Raises InputError for options that contradict each other, or are not enough."""
        commands = self.off_command is not None or self.status_command is not None
        if commands and replace(self, off_command=None, status_command=None) != _Asked():
            message = "a host's power is cut by commands or over Redfish, not by both"
            raise InputError(message)
        return self._commands() if commands else self._redfish()

    def _commands(self) -> FenceCommand:
        from godwit.model import FenceCommand  # noqa: PLC0415 - start-up time

        if self.off_command is None or self.status_command is None:
            message = "--off-command and --status-command go together: what was cut must be proven to be off"
            raise InputError(message, remedy="the status command must end with 0 if the host is off, else with another")
        return FenceCommand(_argv("--off-command", self.off_command), _argv("--status-command", self.status_command))

    def _redfish(self) -> Redfish:
        from godwit.cli.hosts import absolute  # noqa: PLC0415 - start-up time
        from godwit.model import Redfish  # noqa: PLC0415 - start-up time

        address = urlsplit(self.redfish or "")
        if address.scheme != "https" or not address.hostname or address.username or address.path.strip("/"):
            message = f"--redfish: {self.redfish!r} is not https://ADDRESS[:PORT]"
            raise InputError(message, remedy="a user goes to --user; plain http would show the password to others")
        if not self.user or (self.password_file is None) == (self.password_env is None):
            message = "--redfish needs --user, and one of --password-file and --password-env"
            raise InputError(message)
        url = (self.redfish or "").rstrip("/")
        file, authority = absolute(self.password_file), absolute(self.ca)
        return Redfish(url, self.user, file, self.password_env, self.system, authority, self.insecure)


def _argv(option: str, text: str) -> tuple[str, ...]:
    try:
        argv = tuple(shlex.split(text))
    except ValueError as error:
        message = f"{option}: {text!r} cannot be read: {error}"
        raise InputError(message) from error
    if not argv:
        message = f"{option}: there is no command"
        raise InputError(message)
    return argv


async def _fencing(
    name: str, device: FenceCommand | Redfish | None, *, change: bool, automatic: bool, as_json: bool
) -> None:
    async with service() as opened:
        record = await opened.inventory.host(name)
        if change:
            record = replace(record, fence=device, fence_automatic=automatic)
            await opened.inventory.put_host(record)
    if as_json:
        print_json({"host": name, "fence": record.fence, "automatic": record.fence_automatic})
        return
    print_section(name, {"fencing": fencing_words(record), "automatic": "yes" if record.fence_automatic else ""})
    if change and record.fence is not None:
        echo(f"try it without cutting anything: godwit host fence {name} --status")


def fencing_words(record: HostRecord) -> str:
    """Say what cuts a host's power."""
    from godwit.model import FenceCommand, Redfish  # noqa: PLC0415 - start-up time

    match record.fence:
        case FenceCommand(off=off, status=status):
            return f"off: {shlex.join(off)}\nstatus: {shlex.join(status)}"
        case Redfish() as device:
            system = f", system {device.system}" if device.system else ""
            password = device.password_file or f"the variable {device.password_variable}"
            trust = "\nits certificate is NOT verified" if device.insecure else ""
            return f"Redfish at {device.url}{system}, as {device.user}; password in {password}{trust}"
        case _:
            return "nothing is known that cuts its power"
