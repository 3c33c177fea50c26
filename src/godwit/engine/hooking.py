"""The user's hooks around one move: before anything is changed, when the guest runs on the target, at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.core.hooks import DEADLINES, RUNS_THERE, Hook, at_the_end, environment, last_hook
from godwit.errors import InputError, JournalError, RefusedError, SupersededError
from godwit.units import format_duration

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from godwit.core.state import State
    from godwit.engine.actions import Actions
    from godwit.model import Outcome
    from godwit.ports import HookRun

_DO: dict[Hook, str] = {
    Hook.AFTER_SWITCHOVER: "the guest runs on the target, and what the hook was to do then may not be done",
    Hook.AFTER_MOVE: "the guest has moved, and what the hook was to do then may not be done",
    Hook.MOVE_FAILED: "what the hook was to do after a move that failed may not be done",
}


@dataclass(slots=True)
class Hooking:
    """Runs hooks, each at least once where there is one: a runner that follows another cannot know that one ended.

    A hook that fails before the move keeps the guest where it is; later it is a warning, since nothing is taken back
    for it.
    """

    actions: Actions
    reached: bool = False
    """Whether the instant of before-move came, for this runner or a former one."""
    ended: frozenset[str] = frozenset()
    """The hooks that are known to have come to their end under a former runner."""
    _beside: asyncio.Task[None] | None = None

    async def before(self) -> None:
        """Run before-move. Raises RefusedError where it fails, or where a hook that is there may not be run."""
        hooks = self.actions.parts.hooks
        if hooks is None:
            return
        for name, why in hooks.troubles().items():
            message = f"the hook {name} would not be run: {why}"
            raise RefusedError(message, remedy="mend that, or take it out of the folder of hooks")
        self.reached = True
        try:
            run = await self._run(Hook.BEFORE_MOVE)
        except InputError as error:
            message = f"the hook before-move was not run: {error.message}"
            raise RefusedError(message, remedy=error.remedy) from None
        if run is not None and run.status != 0:
            said = f": {run.said}" if run.said else ""
            message = f"the hook before-move {_ended(Hook.BEFORE_MOVE, run)}, so the guest stays where it is{said}"
            raise RefusedError(message, remedy="see what the hook asks for; docs/run-hooks.md")

    def entered(self, state: State, tasks: asyncio.TaskGroup) -> None:
        """Run after-switchover beside what follows, once, when the guest has begun to run on the target."""
        runs_there = state.phase in RUNS_THERE and state.failure is None and Hook.AFTER_SWITCHOVER not in self.ended
        if runs_there and self._beside is None and self.actions.parts.hooks is not None:
            self._beside = tasks.create_task(self._warned(Hook.AFTER_SWITCHOVER), name="hook")

    async def settled(self) -> None:
        """Wait for what runs beside, before the end of the move is told."""
        if self._beside is not None:
            await self._beside

    async def finish(self, outcome: Outcome) -> None:
        """Run the last hook: after-move or move-failed; none for a move that was never begun, or is in LIMBO."""
        hook = last_hook(outcome.status)
        if hook is not None and self.reached and self.actions.parts.hooks is not None:
            await self._warned(hook, at_the_end(outcome))

    async def _warned(self, hook: Hook, more: Mapping[str, str] | None = None) -> None:
        try:
            run = await self._run(hook, more)
        except SupersededError:
            raise
        except (InputError, JournalError) as error:
            self.actions.warn("hook", f"the hook {hook} was not run: {error.message}", _DO[hook], error.remedy)
            return
        if run is not None and run.status != 0:
            said = f": {run.said}" if run.said else ""
            self.actions.warn("hook", f"the hook {hook} {_ended(hook, run)}{said}", _DO[hook], "do it by hand")

    async def _run(self, hook: Hook, more: Mapping[str, str] | None = None) -> HookRun | None:
        parts = self.actions.parts
        assert parts.hooks is not None  # noqa: S101 - the callers have looked; for the type checker
        told = environment(
            hook, parts.spec, parts.epoch, guest=parts.vm.address or "", target=self.actions.address
        ) | dict(more or {})
        self.actions.note("hook", name=hook.value)
        await parts.journal.flush()  # a runner that follows has to know
        row, _ = await parts.journal.load(parts.spec.id)
        if row.epoch != parts.epoch:  # this runner stood still while another has followed it
            message = f"another runner has taken {parts.spec.id} over"
            raise SupersededError(message)
        run = await parts.hooks.run(hook.value, told, DEADLINES[hook])
        self.actions.note("hook", name=hook.value, ended=True)
        if run is not None:
            said = f": {run.said}" if run.said else ""
            self.actions.note("note", text=f"the hook {hook} {_ended(hook, run)}{said}")
        return run


def _ended(hook: Hook, run: HookRun) -> str:
    if run.status is None:
        return f"had not ended after {format_duration(DEADLINES[hook])} and was ended"
    took = format_duration(run.seconds)
    return f"ended after {took}" if run.status == 0 else f"failed with status {run.status} after {took}"
