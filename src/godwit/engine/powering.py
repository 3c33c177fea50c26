"""Asking a guest to switch itself off, until it is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, HypervisorError, MonitorLostError
from godwit.model import RunState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from godwit.model import GuestView
    from godwit.ports import Clock, Guest

PERIOD: Final = 0.1
"""Seconds between looks at a guest that is to stop, to switch itself off, or to start."""

PRESS_AGAIN: Final = 10.0
"""Seconds after which the power button is pressed once more.

A guest that is only booting hears nothing of a press. Pressing again every 10 s is what Nova does for that reason, too
(`shutdown_retry_interval`); a guest that shuts down already takes no notice.
"""


async def ask_to_switch_off(guest: Guest, *, agent: bool) -> str:
    """Ask a guest once: its agent if wanted and there, else by its power button; returns why the agent did not.

    Raises HypervisorError where the button cannot be pressed.
    """
    why = ""
    if agent:
        try:
            if await guest.power_off_by_agent():
                return ""
        except (HostError, HypervisorError) as error:
            why = error.message
    await guest.powerdown()
    return why


async def switch_off(
    ask: Callable[[bool], Awaitable[bool]],
    look: Callable[[], Awaitable[GuestView]],
    clock: Clock,
    *,
    over: Collection[RunState],
    within: float,
) -> GuestView:
    """Ask a guest that runs to switch itself off, again and again, until its state is in `over`.

    `ask` is told whether to ask the guest's agent, and says whether the agent is still to be asked: one that did not
    answer may only be starting, and one that took the request is not asked twice. Returns the last look, which `within`
    seconds may have ended; raises whatever `ask` and `look` raise, except for a monitor that was lost: the next look
    says what that means.
    """
    now = clock.now()
    end, again, agent = now + within, now, True
    while True:
        view = await look()
        now = clock.now()
        if view.state in over or now >= end:
            return view
        if view.state is RunState.RUNNING and now >= again:
            with contextlib.suppress(MonitorLostError):
                agent = await ask(agent)
                again = clock.now() + PRESS_AGAIN
        await clock.sleep(PERIOD)
