"""The command that replaces a guest's QEMU on its own host: upgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from godwit.cli.ground import Json, print_json, run, service
from godwit.cli.moves import VmName, finding_lines, follow, probe_of, tell_detached
from godwit.cli.policies import MaxDowntime, Typed, policy_of
from godwit.cli.terminal import echo
from godwit.errors import InputError, RefusedError

if TYPE_CHECKING:
    from godwit.model import Policy, ProbeRequest


def upgrade(
    vm: VmName,
    *,
    qemu: Annotated[
        str, typer.Option(metavar="PATH", help="The new QEMU on the guest's host.  \\[its program, as installed now]")
    ] = "",
    max_downtime: MaxDowntime = None,
    probe: Annotated[
        str | None,
        typer.Option(metavar="TARGET[@HOST]", help="What a client outside asks meanwhile: ADDRESS, redis://ADDRESS."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", metavar="", help="Do not wait; print the upgrade's ID.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only check; change nothing.")] = False,
    json: Json = False,
) -> None:
    """Replace a running guest's QEMU by a newly installed one, on the same host.

    The new process takes the guest's memory as it stands where both QEMUs can do
    that, else it is copied on the host. It goes on whatever becomes of this
    command: godwit watch VM follows it, godwit cancel VM takes it back.
    """
    if detach and dry_run:
        message = "--detach and --dry-run contradict each other"
        raise InputError(message)
    if dry_run:
        run(_check(vm, qemu, as_json=json))
        return
    policy, request = policy_of(Typed(max_downtime=max_downtime)), probe_of(probe)
    raise typer.Exit(run(_upgrade(vm, qemu, policy, request, detach=detach, as_json=json)))


async def _upgrade(
    vm: str, qemu: str, policy: Policy, probe: ProbeRequest | None, *, detach: bool, as_json: bool
) -> int:
    from godwit.cli.following import listening  # noqa: PLC0415 - start-up time

    async with service(take_up=True) as opened:
        if probe is not None and probe.vantage is not None:
            await opened.inventory.host(probe.vantage)
        with listening() as inbox:
            identifier = await opened.upgrade(vm, qemu, policy, probe)
            if detach:
                tell_detached(identifier, as_json=as_json)
                return 0
            return await follow(opened, identifier, inbox, as_json=as_json, manner="move")


async def _check(vm: str, qemu: str, *, as_json: bool) -> None:
    async with service(take_up=True) as opened:
        findings = await opened.dry_run_upgrade(vm, qemu)
    blocked = [finding for finding in findings if finding.severity == "block"]
    if as_json:
        print_json({"vm": vm, "possible": not blocked, "findings": findings})
        if blocked:
            raise typer.Exit(RefusedError.exit_status)
        return
    for finding in findings:
        for line in finding_lines(finding):
            echo(line)
    if blocked:
        message = f"the QEMU of {vm} cannot be replaced: {blocked[0].found}"
        raise RefusedError(message, remedy=blocked[0].mend)
    echo(f"the QEMU of {vm} can be replaced")
