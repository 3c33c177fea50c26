"""Commands that move guests: migrate, check, cancel."""

from __future__ import annotations

import contextlib
import itertools
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from godwit.cli.ground import Json, duration, migration_id, print_json, run, service
from godwit.cli.policies import (
    Allow,
    Bandwidth,
    Deadline,
    Forbid,
    MaxDowntime,
    MaxSlowdown,
    PolicyName,
    Protect,
    Typed,
    policy_of,
)
from godwit.cli.terminal import echo, echo_error
from godwit.errors import GodwitError, InputError, RefusedError
from godwit.identifiers import new_identifier
from godwit.model import DeviceChoice, DevicePolicy, DiskMode, OutcomeStatus, ProbeRequest, Way
from godwit.runners import prepared
from godwit.units import format_duration

if TYPE_CHECKING:
    from godwit.cli.following import Inbox
    from godwit.model import Finding, Outcome, Policy
    from godwit.ports import MigrationRow
    from godwit.service import Service

Manner = Literal["move", "watch", "cancel"]
EXIT_PIPE: Final = 141

VmName = Annotated[str, typer.Argument(metavar="VM", help="The guest's name.", show_default=False)]
HostName = Annotated[str, typer.Argument(metavar="HOST", help="Where it shall go.", show_default=False)]


def migrate(  # noqa: PLR0913 - the options
    vm: VmName,
    host: HostName,
    *,
    policy: PolicyName = None,
    max_downtime: MaxDowntime = None,
    deadline: Deadline = None,
    bandwidth_: Bandwidth = None,
    max_slowdown: MaxSlowdown = None,
    protect_neighbours: Protect = None,
    allow: Allow = None,
    forbid: Forbid = None,
    disks: Annotated[
        DiskMode, typer.Option(help="What becomes of disks: copy what is not shared, or share all, or copy.")
    ] = DiskMode.AUTO,
    disk: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MODE", help="An exception for one disk: disk1=full.")
    ] = None,
    compare_all: Annotated[
        bool, typer.Option("--compare-all", metavar="", help="Read backing files whole to compare them.")
    ] = False,
    no_keep: Annotated[
        bool, typer.Option("--no-keep", metavar="", help="Remove copied disks from the source afterwards.")
    ] = False,
    static: Annotated[
        bool, typer.Option("--static", metavar="", help="Let it stand still all the way: its work goes on there.")
    ] = False,
    off: Annotated[
        bool, typer.Option("--off", metavar="", help="With --static: switch it off, and start it there anew.")
    ] = False,
    off_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long it may take to switch itself off.  \\[60s]")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=HOW[:MATCH]", help="What becomes of a device that does not travel: unplug, failover, refuse."
        ),
    ] = None,
    unplug_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long it may take to let go of a device.  \\[20s]")
    ] = None,
    verify_disks: Annotated[
        bool, typer.Option("--verify-disks", metavar="", help="Compare copied disks with the old ones afterwards.")
    ] = False,
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Put it off for so long at most, until it writes less, if it writes too much."
        ),
    ] = None,
    plaintext: Annotated[
        bool, typer.Option("--plaintext", metavar="", help="Do not encrypt what is sent, nor check who takes it.")
    ] = False,
    probe: Annotated[
        str | None,
        typer.Option(metavar="TARGET[@HOST]", help="What a client outside asks meanwhile: ADDRESS, redis://ADDRESS."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", metavar="", help="Do not wait; print the migration's ID.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only check, like godwit check.")] = False,
    json: Json = False,
    qemu_defaults: Annotated[bool, typer.Option("--qemu-defaults", hidden=True)] = False,
    qemu_auto_converge: Annotated[bool, typer.Option("--qemu-auto-converge", hidden=True)] = False,
) -> None:
    """Move a guest to another host: running, standing still, or switched off.

    The move is carried by a process of its own: Ctrl-C asks what to do, and a
    closed terminal changes nothing. Follow it from anywhere: godwit watch VM.
    """
    if detach and dry_run:
        message = "--detach and --dry-run contradict each other"
        raise InputError(message)
    permissions = (tuple(allow or ()), tuple(forbid or ()))
    typed = Typed(policy, max_downtime, deadline, bandwidth_, max_slowdown, *permissions, protect_neighbours)
    wanted = replace(
        policy_of(typed),
        disks=disks,
        disk_modes=disk_modes(disk or []),
        compare_all=compare_all,
        keep_old=not no_keep,
        verify_disks=verify_disks,
        plaintext=plaintext,
    )
    wanted = direct_policy(wanted, device or [], unplug_timeout)
    wanted = patient_policy(wanted, wait, static=static)
    wanted = standing_policy(wanted, typed, static=static, off=off, off_timeout=off_timeout)
    plain = Plain(qemu_defaults or qemu_auto_converge, qemu_auto_converge)
    if static and plain.defaults:
        message = "--qemu-defaults compares live moves: --static has no such thing"
        raise InputError(message)
    if dry_run:
        run(_check(vm, host, wanted, as_json=json))
        return
    request = probe_of(probe)
    raise typer.Exit(run(_migrate(vm, host, wanted, request, plain=plain, detach=detach, as_json=json)))


@dataclass(frozen=True, slots=True)
class Plain:
    """What is left to QEMU, for comparison: all decisions, with its own auto-converge or without."""

    defaults: bool = False
    converge: bool = False


def patient_policy(policy: Policy, wait: str | None, *, static: bool) -> Policy:
    """Return the policy of a move that may be put off. Raises InputError where that contradicts something else."""
    seconds = duration("--wait", wait)
    if seconds is None:
        return policy
    if static:
        message = "--wait and --static contradict each other: a guest that stands still writes nothing"
        raise InputError(message)
    if policy.deadline is not None and seconds >= policy.deadline:
        message = f"--wait {wait} leaves nothing of a deadline of {format_duration(policy.deadline)}"
        raise InputError(message, remedy="allow more time with --deadline, or wait for less")
    return replace(policy, wait=seconds)


def standing_policy(policy: Policy, typed: Typed, *, static: bool, off: bool, off_timeout: str | None) -> Policy:
    """Return the policy of a guest that stands still or is switched off, if that was asked for.

    Raises InputError for options that contradict each other, and those of a running guest that were `typed` for this.
    """
    if off and not static:
        message = "--off goes with --static: it switches the guest off"
        raise InputError(message, remedy="say --static --off, if it may be off for a while")
    if off_timeout is not None and not off:
        message = "--off-timeout goes with --static --off: only there is a guest switched off"
        raise InputError(message)
    if off and typed.protect:
        message = "--protect-neighbours and --off contradict each other: of a guest that is off no memory is sent"
        raise InputError(message, remedy="--bandwidth limits what is sent of its disks")
    running = {
        "--max-downtime": typed.max_downtime,
        "--max-slowdown": typed.max_slowdown,
        "--allow": typed.allow,
        "--forbid": typed.forbid,
    }
    if static and (option := next((name for name, value in running.items() if value), "")):
        message = f"{option} and --static contradict each other: the guest stands still as long as it takes"
        raise InputError(message, remedy="--deadline takes it back when that is too long; without --static it runs on")
    if not static:
        return policy
    timeout = duration("--off-timeout", off_timeout)
    return replace(
        policy,
        way=Way.OFF if off else Way.STATIC,
        off_timeout=policy.off_timeout if timeout is None else timeout,
    )


def direct_policy(policy: Policy, typed: list[str], unplug_timeout: str | None) -> Policy:
    """Return the policy with what was typed of devices. Raises InputError saying what is wrong."""
    timeout = duration("--unplug-timeout", unplug_timeout)
    choices = tuple(device_choice(text) for text in typed)
    if twice := next((one.device for one, more in itertools.combinations(choices, 2) if one.device == more.device), ""):
        message = f"--device {twice} was said twice"
        raise InputError(message)
    return replace(policy, devices=choices, unplug_timeout=policy.unplug_timeout if timeout is None else timeout)


def device_choice(text: str) -> DeviceChoice:
    """Return what ID=HOW[:MATCH] says of a device. Raises InputError."""
    name, _, rest = text.partition("=")
    how, _, match = rest.partition(":")
    if not name or how not in set(DevicePolicy) or (match and how == DevicePolicy.REFUSE):
        message = f"--device: {text!r} is not ID=HOW[:MATCH]"
        remedy = (
            f"write for example --device nic1=unplug, or nic1=unplug:8086:1520 for what may stand for it there; "
            f"HOW is one of {', '.join(DevicePolicy)}"
        )
        raise InputError(message, remedy=remedy)
    return DeviceChoice(name, DevicePolicy(how), match)


def disk_modes(typed: list[str]) -> tuple[tuple[str, DiskMode], ...]:
    """Return the disks that are to travel otherwise than the rest. Raises InputError saying what is wrong."""
    modes = {}
    for text in typed:
        name, _, mode = text.rpartition("=")
        if not name or mode not in set(DiskMode):
            message = f"--disk: {text!r} is not NAME=MODE"
            raise InputError(message, remedy=f"write for example --disk disk1=full; modes: {', '.join(DiskMode)}")
        modes[name] = DiskMode(mode)
    return tuple(modes.items())


def probe_of(text: str | None) -> ProbeRequest | None:
    """Return the probe that TARGET[@HOST] asks for. Raises InputError saying what is wrong."""
    if text is None:
        return None
    target, _, vantage = text.rpartition("@") if "@" in text else (text, "", "")
    from godwit.measure.probe import ProbeSpec  # noqa: PLC0415 - loads numpy, which only this option needs

    try:
        ProbeSpec.parse(target)
    except ValueError as error:
        message = f"--probe: {error}"
        raise InputError(message, remedy="write for example 198.51.100.7, or redis://198.51.100.7:6379") from error
    return ProbeRequest(target, vantage or None)


async def _migrate(
    vm: str,
    host: str,
    policy: Policy,
    probe: ProbeRequest | None,
    *,
    plain: Plain,
    detach: bool,
    as_json: bool,
) -> int:
    from godwit.cli.following import listening  # noqa: PLC0415 - start-up time

    identifier = prepared(vm) or new_identifier(vm)
    async with service(take_up=True, migrating=(identifier, vm)) as opened:
        if probe is not None and probe.vantage is not None:
            await opened.inventory.host(probe.vantage)
        with listening() as inbox:
            await opened.migrate(
                vm, host, policy, probe, defaults=plain.defaults, converge=plain.converge, identifier=identifier
            )
            if detach:
                tell_detached(identifier, as_json=as_json)
                return 0
            return await follow(opened, identifier, inbox, as_json=as_json, manner="move")


def tell_detached(identifier: str, *, as_json: bool) -> None:
    """Say how to follow a migration that goes on by itself."""
    if as_json:
        print_json({"id": identifier, "kind": "detached"})
        return
    echo(identifier)
    echo(f"godwit: follow it with godwit watch {identifier}", err=True)


async def follow(opened: Service, identifier: str, inbox: Inbox, *, as_json: bool, manner: Manner) -> int:
    """Show a migration until it ends or the user leaves; return the exit status. Only for a mover Ctrl-C may cancel."""
    from godwit.cli.following import Detached, Follower  # noqa: PLC0415 - start-up time
    from godwit.cli.screens import screen_for  # noqa: PLC0415 - start-up time

    row = (await opened.status(identifier)).row
    if as_json:
        print_json({"id": identifier, "kind": "started", "at": row.created, "data": row.spec})
    asks = manner == "move" and not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    follower = Follower(opened, identifier, screen_for(row, opened.clock.now, as_json=as_json), inbox, asks=asks)
    try:
        end = await follower.run()
    except BrokenPipeError:
        _say_detached(row, as_json=False)
        return EXIT_PIPE
    if isinstance(end, Detached):
        _say_detached(row, as_json=as_json)
        return end.status
    return conclude(end, as_json=as_json, manner=manner)


def _say_detached(row: MigrationRow, *, as_json: bool) -> None:
    """Say that the migration goes on, if there is still somebody to hear it."""
    identifier = row.spec.id
    with contextlib.suppress(OSError):
        if as_json:
            print_json({"id": identifier, "kind": "detached"})
        echo("godwit: detached; the migration goes on", err=True)
        echo(
            f"godwit: follow it with godwit watch {identifier}, take it back with godwit cancel {identifier}", err=True
        )


def conclude(outcome: Outcome, *, as_json: bool, manner: Manner) -> int:
    """Say how it ended, and return the exit status of that end: for who wanted it cancelled, that is success."""
    from godwit.api.client import error_of  # noqa: PLC0415 - start-up time
    from godwit.cli.summary import summary  # noqa: PLC0415 - start-up time

    as_wanted = manner == "cancel" and outcome.status is OutcomeStatus.CANCELLED
    error = None if as_wanted else error_of(outcome)
    if manner == "cancel" and outcome.status is OutcomeStatus.COMPLETED:
        message = f"too late to cancel: {outcome.vm} had been handed over and runs on {outcome.target}"
        back = f"godwit migrate {outcome.vm} {outcome.source} takes it back"
        error = GodwitError(message, remedy=back if outcome.qemus is None else "godwit upgrade --qemu PATH goes back")
    if as_json:
        print_json({"id": outcome.id, "kind": "outcome", "data": outcome})
        return error.exit_status if error else 0
    for line in ("", *summary(outcome)):
        echo(line)
    if error is None:
        return 0
    echo_error(error)
    return error.exit_status


# -- check ---------------------------------------------------------------------------------------------------------


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="VM HOST", help="A guest and where it shall go; with --all, hosts.", show_default=False),
    ] = None,
    *,
    all_: Annotated[
        bool, typer.Option("--all", metavar="", help="Every guest against these hosts, or against all there are.")
    ] = False,
    from_: Annotated[
        list[str] | None, typer.Option("--from", metavar="HOST", help="With --all: the guests of this host alone.")
    ] = None,
    max_downtime: MaxDowntime = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", metavar="", help="Send a burst of about a second, to see what the link carries."),
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", metavar="", help="Apply the mends that are safe and can be taken back.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="With --fix: do not ask.")] = False,
    json: Json = False,
) -> None:
    """Say what would keep a guest from moving; change nothing, but for --fix.

    --fix says what it would run, and where, asks, and looks again afterwards. It
    runs nothing that a running guest would feel, and touches no storage.

    With --all it is a table of guests and hosts, for which godwit check --all
    host2 host3 names the hosts. The exit status is 3 if any of it is blocked, and
    5 if nothing is, but something could not be looked at.
    """
    policy, words = policy_of(Typed(max_downtime=max_downtime)), names or []
    if all_ and (measure or fix):
        message = f"{'--measure' if measure else '--fix'} is of one guest and one host, and --all is of many"
        raise InputError(message)
    if yes and not fix:
        message = "--yes goes with --fix: nothing else here asks"
        raise InputError(message)
    if all_:
        from godwit.cli.comparing import check_all  # noqa: PLC0415 - start-up time

        raise typer.Exit(run(check_all(words, from_ or (), policy, as_json=json)))
    if from_:
        message = "--from goes with --all: one guest is where it is"
        raise InputError(message, remedy="godwit check --all HOST --from HOST")
    if len(words) != 2:  # noqa: PLR2004 - a guest and a host
        message = f"a check is of one guest and one host, not of {len(words)} names: {' '.join(words) or 'none'}"
        raise InputError(message, remedy="godwit check VM HOST; for more of them godwit check --all HOST...")
    vm, host = words
    run(_check(vm, host, policy, measure=measure, fix=fix, yes=yes, as_json=json))


async def _check(
    vm: str, host: str, policy: Policy, *, as_json: bool, measure: bool = False, fix: bool = False, yes: bool = False
) -> None:
    from godwit.cli.fixing import apply  # noqa: PLC0415 - start-up time

    async with service(take_up=True) as opened:
        findings = await opened.dry_run(vm, host, policy, measure=measure)
        fixed = await apply(opened, findings, yes=yes, quiet=as_json) if fix else ()
        if fixed:
            findings = await opened.dry_run(vm, host, policy)
    blocked = [finding for finding in findings if finding.severity == "block"]
    if as_json:
        more = {"fixed": fixed} if fix else {}
        print_json({"vm": vm, "host": host, "possible": not blocked, "findings": findings, **more})
        if blocked:
            raise typer.Exit(RefusedError.exit_status)
        return
    for finding in findings:
        for line in finding_lines(finding):
            echo(line)
    if blocked:
        message = f"{vm} cannot move to {host}: {blocked[0].found}"
        raise RefusedError(message, remedy=blocked[0].mend)
    echo(f"{vm} can move to {host}" + (", with the warnings above" if findings else ""))


def finding_lines(finding: Finding) -> list[str]:
    """Return a finding as lines: what, why, and the mend."""
    words = {"block": "blocks", "warn": "warning", "info": "note"}[finding.severity.value]
    lines = [f"{words}: {finding.found} ({finding.subject})", f"  because: {finding.why}"]
    return [*lines, f"  mend: {finding.mend}"] if finding.mend else lines


# -- cancel --------------------------------------------------------------------------------------------------------


def cancel(
    migration: Annotated[str, typer.Argument(metavar="ID|VM", help="The migration, or its guest.", show_default=False)],
    *,
    no_wait: Annotated[bool, typer.Option("--no-wait", metavar="", help="Do not wait for the end.")] = False,
    json: Json = False,
) -> None:
    """Take a migration back: the guest stays on its source."""
    raise typer.Exit(run(_cancel(migration, wait=not no_wait, as_json=json)))


async def _cancel(text: str, *, wait: bool, as_json: bool) -> int:
    from godwit.cli.following import listening  # noqa: PLC0415 - start-up time

    async with service(take_up=True) as opened:
        identifier = await migration_id(opened, text)
        with listening() as inbox:
            status = await opened.cancel(identifier)
            if status.state.finished:
                ended = status.row.outcome.status.value if status.row.outcome else status.state.phase.value
                message = f"{identifier} has ended already: {ended}"
                raise InputError(message, remedy=f"godwit show {identifier}")
            if not wait:
                if as_json:
                    print_json({"id": identifier, "kind": "cancel-requested"})
                else:
                    echo(f"asked {identifier} to go back; follow it with godwit watch {identifier}")
                return 0
            return await follow(opened, identifier, inbox, as_json=as_json, manner="cancel")
