"""The command `godwit`: its commands, and what it says when it cannot go on."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import Abort, TyperException

from godwit import __version__
from godwit.cli import (
    comparing,
    devices,
    forecasting,
    hosts,
    monitor,
    moves,
    profiling,
    pruning,
    recovering,
    saving,
    snapshots,
    tls,
    upgrades,
    vms,
    watching,
)
from godwit.cli.ground import EXIT_INTERRUPTED
from godwit.cli.moves import EXIT_PIPE
from godwit.cli.policies import with_shares
from godwit.cli.start import keep_descriptors
from godwit.cli.terminal import echo, echo_lines, echo_trouble
from godwit.errors import GodwitError
from godwit.logs import keep_short
from godwit.plaintext import as_json as as_json_text
from godwit.plaintext import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

EXIT_DEFECT: Final = 70
EXIT_OUTPUT: Final = 74

_MOVE: Final = "Move"
_LOOK: Final = "Look"
_MEND: Final = "When something has failed"
_KEEP: Final = "Hosts and guests"
_TRY: Final = "Try it out"
_PASS_ON: Final = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class _InOrder(TyperGroup):
    """Commands in the order in which people need them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # typer's own context
        """Keep the order of registration, groups where they belong."""
        wanted = [*_ORDER, *(name for name in self.commands if name not in _ORDER)]
        del ctx
        return [name for name in wanted if name in self.commands]


class _WithShares(TyperCommand):
    """A command one of whose options has a value of its own where none is typed."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override] # as above
        """Write the value that was left out."""
        return super().parse_args(ctx, with_shares(args))


_ORDER: Final = (
    *("migrate", "check", "upgrade", "status", "cancel", "report"),
    *("watch", "history", "show", "probe", "forecast", "profile"),
    *("recover", "resolve"),
    *("save", "restore", "host", "vm", "device", "cpu", "snapshot", "tls", "monitor", "lab", "bench", "demo"),
)

app = typer.Typer(
    name="godwit",
    cls=_InOrder,
    help="Move running QEMU/KVM guests between hosts, and see what their users felt.",
    epilog="godwit COMMAND --help tells more. Start with: godwit host add, godwit vm adopt, godwit migrate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("migrate", rich_help_panel=_MOVE, cls=_WithShares)(moves.migrate)
app.command("check", rich_help_panel=_MOVE)(moves.check)
app.command("upgrade", rich_help_panel=_MOVE)(upgrades.upgrade)
app.command("status", rich_help_panel=_MOVE)(watching.status)
app.command("cancel", rich_help_panel=_MOVE)(moves.cancel)
app.command("report", rich_help_panel=_MOVE)(watching.report)
app.command("recover", rich_help_panel=_MEND)(recovering.recover)
app.command("resolve", rich_help_panel=_MEND)(recovering.resolve)
app.command("watch", rich_help_panel=_LOOK)(watching.watch)
app.add_typer(pruning.app, name="history", rich_help_panel=_LOOK)
app.command("show", rich_help_panel=_LOOK)(watching.show)
app.command("probe", rich_help_panel=_LOOK)(watching.probe)
app.command("forecast", rich_help_panel=_LOOK)(forecasting.forecast)
app.command("profile", rich_help_panel=_LOOK)(profiling.profile)
app.command("save", rich_help_panel=_KEEP)(saving.save)
app.command("restore", rich_help_panel=_KEEP)(saving.restore)
app.add_typer(hosts.app, name="host", rich_help_panel=_KEEP)
app.add_typer(vms.app, name="vm", rich_help_panel=_KEEP)
app.add_typer(comparing.cpu_app, name="cpu", rich_help_panel=_KEEP)
app.add_typer(devices.app, name="device", rich_help_panel=_KEEP)
app.add_typer(snapshots.app, name="snapshot", rich_help_panel=_KEEP)
app.add_typer(tls.app, name="tls", rich_help_panel=_KEEP)
app.command("monitor", rich_help_panel=_KEEP)(monitor.monitor)


@app.command("lab", rich_help_panel=_TRY, context_settings=_PASS_ON, add_help_option=False)
def lab(context: typer.Context) -> None:
    """Throw-away hosts on this machine, to try things out; needs root."""
    raise typer.Exit(_passed_on("godwit.lab.commands", "lab_app", context))


@app.command("bench", rich_help_panel=_TRY, context_settings=_PASS_ON, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Compare moves by QEMU, by virsh and by Godwit, of the same guests; needs root."""
    raise typer.Exit(_passed_on("godwit.bench.commands", "bench_app", context))


@app.command("demo", rich_help_panel=_TRY, context_settings=_PASS_ON, add_help_option=False)
def demo(context: typer.Context) -> None:
    """See a move in ten seconds, without privileges: --simulated."""
    raise typer.Exit(_passed_on("godwit.cli.demo", "demo_app", context))


def _passed_on(module: str, name: str, context: typer.Context) -> int:
    """Let a sub-application have the rest of the line; it is imported only now, since few need it."""
    sub: typer.Typer = getattr(importlib.import_module(module), name)
    command = typer.main.get_command(sub)
    status = command.main(list(context.args), prog_name=f"godwit {context.info_name}", standalone_mode=False)
    return status if isinstance(status, int) else 0


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        echo(f"godwit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    pass


# -- running, and what is said when that fails ---------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; never lets a traceback out."""
    keep_descriptors()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        _mute()
        return EXIT_PIPE
    except OSError as error:
        _mute()
        tell("output", f"cannot write the output: {error.strerror or error}", "", EXIT_OUTPUT, as_json=False)
        return EXIT_OUTPUT
    return status


@functools.cache
def _command() -> TyperGroup:
    return cast("TyperGroup", typer.main.get_command(app))


def _run(words: list[str]) -> int:
    try:
        status = _command().main(words, prog_name="godwit", standalone_mode=False)
    except TyperException as error:
        return _usage(error, words)
    except (GodwitError, BaseExceptionGroup) as error:
        known = _first_known(error) if isinstance(error, BaseExceptionGroup) else error
        return _defect(error, words) if known is None else _fail(known, words)
    except Abort:
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:
            raise  # standard output failed; `main` knows what to say
        return _defect(error, words)
    return status if isinstance(status, int) else 0


def _first_known(group: BaseExceptionGroup[BaseException]) -> GodwitError | None:
    """Return the first error of ours if the group holds nothing else."""
    known = [_first_known(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    ours = [error for error in known if isinstance(error, GodwitError)]
    return ours[0] if len(ours) == len(known) else None


def _fail(error: GodwitError, words: Sequence[str]) -> int:
    if os.environ.get("GODWIT_DEBUG") == "1":
        raise error
    tell(error.code, error.message, error.remedy, error.exit_status, as_json=_wants_json(words))
    return error.exit_status


def _usage(error: TyperException, words: Sequence[str]) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "godwit"
    if type(error).__name__ == "NoArgsIsHelpError":
        echo_lines(error.format_message())
        return 0 if path == "godwit" else error.exit_code
    message = error.format_message().strip()
    tell("usage", message, f"{path} --help", error.exit_code, as_json=_wants_json(words))
    return error.exit_code


def _defect(error: BaseException, words: Sequence[str]) -> int:
    """Apologise, and keep the traceback where it can be found."""
    if os.environ.get("GODWIT_DEBUG") == "1":
        raise error
    where = _log(error, error.__traceback__, words)
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    message = f"sorry, godwit failed in a way nobody foresaw: {what}"
    remedy = f"details are in {where}" if where else "GODWIT_DEBUG=1 shows the details"
    tell("defect", message, f"{remedy}; running migrations are not affected", EXIT_DEFECT, as_json=_wants_json(words))
    return EXIT_DEFECT


def _log(error: BaseException, trace: TracebackType | None, words: Sequence[str]) -> str:
    """Append the traceback to the log; return its path, empty where it could not be written."""
    import traceback  # noqa: PLC0415 - only here

    from godwit import app as composition  # noqa: PLC0415 - only here
    from godwit.localfiles import open_own  # noqa: PLC0415 - only here

    path = composition.home() / "log" / "cli.log"
    try:
        with os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "a") as log:
            keep_short(log.fileno())
            log.write(f"{datetime.now(UTC).isoformat()} godwit {__version__} {list(words)!r}\n")
            for line in "".join(traceback.format_exception(type(error), error, trace)).splitlines():
                log.write(f"  {one_line(line)}\n")
    except OSError:
        return ""
    return str(path)


def tell(code: str, message: str, remedy: str, status: int, *, as_json: bool) -> None:
    """Say what is wrong and what mends it: two lines for people on stderr, or an object for programs on stdout."""
    if as_json:
        echo(as_json_text({"error": {"code": code, "message": message, "mend": remedy}, "exit_status": status}))
        return
    try:
        echo_trouble(message, remedy)
    except OSError:
        # Nobody listens any more; the exit status still says it.
        _mute()


def _wants_json(words: Sequence[str]) -> bool:
    return "--json" in words


def _mute() -> None:
    """Let nothing more be written to streams that nobody reads, not even when Python ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
