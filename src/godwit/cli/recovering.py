"""Commands for what is unfinished: recover, resolve; and what is said of a guest in limbo."""

from __future__ import annotations

import getpass
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.cli.ground import Json, local_time, migration_id, plain, print_json, print_section, run, service, view_words
from godwit.cli.terminal import echo, echo_error
from godwit.errors import BusyError, GodwitError, GuestCrashedError, InputError, LimboError, RefusedError, SaveError
from godwit.identifiers import is_job
from godwit.model import OutcomeStatus, Side, StreamStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.cli.following import Inbox
    from godwit.core.limbo import Choice
    from godwit.core.saves import Job
    from godwit.model import Outcome
    from godwit.ports import Entry
    from godwit.recovering import Begun, Evidence, Recovery, SideTold

LAST: Final = 4
"""Lines of the former runner's story that are told of a guest in limbo."""

_GRAVITY: Final = (LimboError.exit_status, BusyError.exit_status, GuestCrashedError.exit_status)
"""Exit statuses of several, the gravest first."""


# -- recover -------------------------------------------------------------------------------------------------------


def recover(
    migration: Annotated[
        str | None, typer.Argument(metavar="[ID|VM]", help="One migration, save or restore; else all.")
    ] = None,
    *,
    take_over: Annotated[
        bool, typer.Option("--take-over", metavar="", help="End a runner that is there and does nothing.")
    ] = False,
    fence: Annotated[
        bool,
        typer.Option("--fence", metavar="", help="Cut the power of a host that is silent, and prove that it is off."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="Cut it, whatever dies with that host.")] = False,
    json: Json = False,
) -> None:
    """Settle what is unfinished: look at both hosts, finish or undo, or say what can be done.

    Ends with 0 where all is settled, with 9 where a guest is left in limbo: then
    it prints what is known and each choice.
    """
    if fence and migration is None:
        message = "--fence needs the migration whose silent host is meant"
        raise InputError(message, remedy="godwit recover ID --fence; godwit host fence HOST for a host by itself")
    if yes and not fence:
        message = "--yes means nothing without --fence"
        raise InputError(message)
    asked = _Asked(take_over=take_over, fence=fence, yes=yes, as_json=json)
    raise typer.Exit(run(_recover(migration, asked)))


@dataclass(slots=True)
class _Asked:
    take_over: bool
    fence: bool
    yes: bool
    as_json: bool
    statuses: list[int] = field(default_factory=list)

    def ended(self) -> int:
        """Return the exit status of all that was settled, or was not."""
        return next((status for status in _GRAVITY if status in self.statuses), max(self.statuses, default=0))


async def _recover(text: str | None, asked: _Asked) -> int:
    from godwit.cli.following import listening  # noqa: PLC0415 - start-up time
    from godwit.recovering import Recovery  # noqa: PLC0415 - start-up time

    async with service(carries=asked.fence) as opened:
        recovery = Recovery(opened)
        migrations, jobs = await _meant(recovery, text, asked)
        if asked.fence:
            for identifier in migrations:
                await _fence_silent(recovery, identifier, asked)
        with listening() as inbox:
            begun = {one: await _begun(recovery, one, asked) for one in migrations}
            for job in jobs:
                await _revived(recovery, job, asked)
            for identifier, how in begun.items():
                if how is not None and await _followed(recovery, identifier, how, inbox, asked):
                    break
            else:
                for job in jobs:
                    await _job_followed(recovery, job, inbox, asked)
        if text is None:
            await _tell_sends(recovery, asked)
        if not (migrations or jobs or asked.statuses) and not asked.as_json:
            echo("nothing is unfinished")
    return asked.ended()


async def _meant(recovery: Recovery, text: str | None, asked: _Asked) -> tuple[list[str], list[Job]]:
    opened = recovery.service
    if text is None:
        unfinished = await recovery.unfinished()
        return [row.spec.id for row in unfinished.migrations], unfinished.jobs
    if is_job(text):
        job = await opened.journal.jobs.load(text)
        return [], [job]
    identifier = await migration_id(opened, text)
    status = await opened.status(identifier)
    if status.state.finished and status.row.outcome is not None:
        _settled(status.row.outcome, asked)
        return [], []
    return [identifier], []


async def _begun(recovery: Recovery, identifier: str, asked: _Asked) -> Begun | None:
    try:
        return await recovery.begin(identifier, take_over=asked.take_over)
    except BusyError as error:
        _refused(identifier, error, asked)
        return None


async def _revived(recovery: Recovery, job: Job, asked: _Asked) -> None:
    if job.finished:
        return
    try:
        await recovery.revive(job.id, job.vm, job.created, take_over=asked.take_over)
    except BusyError as error:
        _refused(job.id, error, asked)


def _refused(identifier: str, error: GodwitError, asked: _Asked) -> None:
    asked.statuses.append(error.exit_status)
    if asked.as_json:
        told = {"code": error.code, "message": error.message, "mend": error.remedy}
        print_json({"id": identifier, "kind": "refused", "error": told})
        return
    echo_error(error)


async def _followed(recovery: Recovery, identifier: str, begun: Begun, inbox: Inbox, asked: _Asked) -> bool:
    """Show a migration until it is settled, or not; say whether the user left."""
    from godwit.cli.following import Detached, Follower  # noqa: PLC0415 - start-up time
    from godwit.cli.screens import screen_for  # noqa: PLC0415 - start-up time

    opened = recovery.service
    row = (await opened.status(identifier)).row
    if not asked.as_json:
        how = "a runner works on it" if begun.joined else "looking at both hosts"
        echo(f"{identifier}: {row.spec.vm}, {row.spec.source} to {row.spec.target}, {row.phase}; {how}")
    screen = screen_for(row, opened.clock.now, as_json=asked.as_json)
    reads = recovery.settle(identifier, begun)
    try:
        end = await Follower(opened, identifier, screen, inbox, reads=reads).run()
    except GodwitError as error:
        _refused(identifier, error, asked)
        return False
    if isinstance(end, Detached):
        asked.statuses.append(end.status)
        echo(f"godwit: left; what is unfinished goes on: godwit recover {identifier}", err=True)
        return True
    if end.status is OutcomeStatus.LIMBO:
        await _in_limbo(recovery, identifier, asked)
    else:
        _settled(end, asked)
    return False


async def _in_limbo(recovery: Recovery, identifier: str, asked: _Asked) -> None:
    asked.statuses.append(LimboError.exit_status)
    evidence = await recovery.evidence(identifier)
    lines = await recovery.service.journal.entries(identifier)
    if asked.as_json:
        print_json({"id": identifier, "kind": "limbo", "evidence": evidence_data(evidence)})
        return
    print_evidence(evidence, lines)


def _settled(outcome: Outcome, asked: _Asked) -> None:
    """Say how it ended; what is settled and leaves a guest that runs is no failure here."""
    from godwit.cli.summary import summary  # noqa: PLC0415 - start-up time

    crashed = outcome.status is OutcomeStatus.GUEST_CRASHED
    asked.statuses.append(GuestCrashedError.exit_status if crashed else 0)
    if asked.as_json:
        print_json({"id": outcome.id, "kind": "outcome", "data": outcome})
        return
    for line in ("", *summary(outcome)):
        echo(line)
    if outcome.error:
        echo(f"  {'because':9} {outcome.error}")
    if outcome.remedy:
        echo(f"  {'mend':9} {outcome.remedy}")


async def _job_followed(recovery: Recovery, job: Job, inbox: Inbox, asked: _Asked) -> None:
    """Wait for the end of a save or restore, and say how that was."""
    from godwit.cli.saving import follow_to_end  # noqa: PLC0415 - start-up time

    try:
        status = await follow_to_end(recovery.service, job.id, inbox, as_json=asked.as_json)
    except GodwitError as error:
        _refused(job.id, error, asked)
        return
    asked.statuses.append(0 if status == SaveError.exit_status else status)


async def _tell_sends(recovery: Recovery, asked: _Asked) -> None:
    """Name the guests that nobody goes on sending: only the command that sends one can."""
    for record in (await recovery.unfinished()).sends:
        if recovery.service.runners.alive(record.vm):
            continue
        message = f"{record.vm} is on its way to {record.target} with {record.tag} ({record.step}); nobody works on it"
        _refused(record.vm, BusyError(message, remedy=record.command), asked)


async def _fence_silent(recovery: Recovery, identifier: str, asked: _Asked) -> None:
    hosts = await recovery.silent_hosts(identifier)
    if not hosts and not asked.as_json:
        echo("no host of it is silent: nobody's power is cut")
    for host in hosts:
        await fence_host(recovery, host, yes=asked.yes, as_json=asked.as_json)


async def fence_host(recovery: Recovery, host: str, *, yes: bool, as_json: bool) -> None:
    """Cut a host's power and say what proves it. Raises RefusedError where that would end something, unless `yes`."""
    dangers = await recovery.dangers(host)
    if dangers and not yes:
        message = f"cutting the power of {host} ends whatever runs there: {'; '.join(dangers)}"
        raise RefusedError(message, remedy="the same command with --yes, once you are sure")
    for danger in dangers:
        echo(f"warning: {danger}", err=True)
    if not as_json:
        echo(f"cutting the power of {host} ...")
    proof = await recovery.fence(host, getpass.getuser())
    if as_json:
        print_json({"host": host, "kind": "fenced", "proof": proof})
    else:
        echo(f"{host} is proven to be off: {proof.said}")


# -- resolve -------------------------------------------------------------------------------------------------------


def resolve(
    migration: Annotated[str, typer.Argument(metavar="ID|VM", help="The migration, or its guest.", show_default=False)],
    *,
    owner: Annotated[Side, typer.Option(help="Which side the guest is given to.", show_default=False)],
    i_have_checked: Annotated[
        bool, typer.Option("--i-have-checked", metavar="", help="You have looked at both hosts; it is written down.")
    ] = False,
    json: Json = False,
) -> None:
    """Decide who owns a guest in limbo, by your word; Godwit then finishes the move, or goes back.

    Refused where what both hosts show speaks against it. Without --i-have-checked it only says what is known.
    """
    raise typer.Exit(run(_resolve(migration, owner, checked=i_have_checked, as_json=json)))


async def _resolve(text: str, owner: Side, *, checked: bool, as_json: bool) -> int:
    from godwit.cli.following import listening  # noqa: PLC0415 - start-up time
    from godwit.recovering import Recovery  # noqa: PLC0415 - start-up time

    asked = _Asked(take_over=False, fence=False, yes=False, as_json=as_json)
    async with service() as opened:
        recovery = Recovery(opened)
        identifier = await migration_id(opened, text)
        if not checked:
            await _only_told(recovery, identifier, owner, as_json=as_json)
        by = getpass.getuser()
        with listening() as inbox:
            begun = await recovery.resolve(identifier, owner, by)
            await _followed(recovery, identifier, begun, inbox, asked)
    return asked.ended()


async def _only_told(recovery: Recovery, identifier: str, owner: Side, *, as_json: bool) -> None:
    """Say what is known, and refuse. Raises InputError, RefusedError."""
    evidence = await recovery.evidence(identifier)
    if evidence.status.state.phase.value != "limbo":
        message = f"{identifier} is not in limbo: it is {evidence.status.state.phase}"
        raise InputError(message, remedy=f"godwit recover {identifier} settles what is unfinished")
    if not as_json:
        print_evidence(evidence, await recovery.service.journal.entries(identifier))
    host = evidence.sides[owner].host
    message = f"{evidence.status.row.spec.vm} is not given to {host}: nobody said that they have looked at both hosts"
    raise RefusedError(message, remedy="look at both, then say so with --i-have-checked")


# -- what is known of a guest in limbo -----------------------------------------------------------------------------


def evidence_data(evidence: Evidence) -> dict[str, object]:
    """Return the evidence and the choices as JSON data."""
    sides = {side.value: plain(told) for side, told in evidence.sides.items()}
    return {"state": plain(evidence.status.state), "sides": sides, "choices": [plain(one) for one in evidence.choices]}


def print_evidence(evidence: Evidence, lines: Sequence[Entry]) -> None:
    """Print what each side shows, what the former runner did last, where logs are, and each choice with its risk."""
    from godwit import app  # noqa: PLC0415 - start-up time

    row, state = evidence.status.row, evidence.status.state
    echo()
    facts = {f"on {told.host}": _side_words(side, told) for side, told in evidence.sides.items()}
    facts["why"] = state.failure.message if state.failure else ""
    facts["last"] = "\n".join(_last_words(lines))
    facts["logs"] = f"{app.home()}/log/{row.spec.id}.log; the whole story: godwit show {row.spec.id}"
    print_section(f"nobody can know who owns {row.spec.vm}", facts)
    echo()
    echo("what can be done")
    for number, choice in enumerate(evidence.choices, 1):
        _print_choice(number, choice)


def _print_choice(number: int, choice: Choice) -> None:
    where = f" on {choice.host}" if choice.host else ""
    echo(f"  {number}. {choice.does}")
    if choice.refused:
        echo(f"     not now: {choice.refused}")
        return
    echo(f"     type{where}: {choice.command}")
    echo(f"     risk: {choice.risk}")


def _side_words(side: Side, told: SideTold) -> str:
    view = told.view
    stream = "" if view.stream is StreamStatus.NONE else f", stream {view.stream}"
    when = "seen so for the first time" if told.since is None else f"so since {local_time(told.since)}"
    log = f"\nQEMU's log there: {told.log}" if told.log else ""
    return f"{view_words(view)}{stream} ({side}; {when}){log}"


def _last_words(lines: Sequence[Entry]) -> list[str]:
    """Return the last things that happened before nobody could know any more."""
    from godwit.measure.narrative import sentence  # noqa: PLC0415 - start-up time

    before = [line for line in lines if line.data.get("event") != "Observed" and line.data.get("phase") != "limbo"]
    told = [one for one in map(sentence, before) if one is not None]
    return [f"{local_time(one.at)}  {one.text}" for one in told[-LAST:]]
