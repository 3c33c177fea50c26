"""`godwit demo --simulated`: a move in ten seconds, without privileges, over simulated hosts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.cli.following import Detached, Follower, listening
from godwit.cli.screens import screen_for
from godwit.cli.summary import summary
from godwit.cli.terminal import echo
from godwit.errors import InputError
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.model import Outcome

demo_app = typer.Typer(add_completion=False)
_BANNER: Final = "SIMULATED: no QEMU and no hosts are at work here; the engine and its decisions are the real ones"


@demo_app.command()
def demo(
    *,
    simulated: Annotated[bool, typer.Option("--simulated", help="Over simulated hosts; needs no privileges.")] = False,
) -> None:
    """See a move in ten seconds. The real demonstration, with real QEMU, is `godwit lab demo` (root)."""
    if not simulated:
        message = "this demonstration is simulated, and says so only when asked to"
        raise InputError(message, remedy="godwit demo --simulated, or as root, with real QEMU: godwit lab demo")
    raise typer.Exit(asyncio.run(_run()))


async def _run() -> int:
    from godwit.hosts.fake import Workload  # noqa: PLC0415 - start-up time
    from godwit.simulation import simulated  # noqa: PLC0415 - start-up time

    echo(_BANNER)
    workload = Workload(memory=512 * MIB, used=160 * MIB, hot_set=4 * MIB, dirty_rate=2 * MIB)
    service = await simulated(workload)
    with listening() as inbox:
        for host, words, defaults in (("host2", "with QEMU's defaults", True), ("host1", "with Godwit", False)):
            echo()
            echo(f"[SIMULATED] web1 to {host} {words}")
            identifier = await service.migrate("web1", host, defaults=defaults)
            row, _ = await service.journal.load(identifier)
            screen = screen_for(row, service.clock.now, as_json=False)
            ended = await Follower(service, identifier, screen, inbox).run()
            if isinstance(ended, Detached):
                return ended.status
            _tell(ended)
    return 0


def _tell(outcome: Outcome) -> None:
    for line in summary(outcome):
        if not line.lstrip().startswith("report"):  # nothing is kept that could be reported on
            echo(f"[SIMULATED] {line.removeprefix('SIMULATED: ')}")
