"""What goes wrong in a story: kinds of faults, when they strike, how long they last, and how they are done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gates import AFTER, BEFORE, LATE, Disturbance
from scenes import HOSTS

from godwit.core.state import Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from scenes import Move
    from story import Story

SIDES: Final = ("source", "target")

STAY: Final = -1.0
"""How long a fault lasts that is never mended."""


@dataclass(frozen=True, slots=True)
class At:
    """An instant, in virtual seconds from the beginning."""

    seconds: float

    def __str__(self) -> str:
        """Say when."""
        return f"at {self.seconds:.3f} s"


@dataclass(frozen=True, slots=True)
class Nth:
    """The `number`th step of all runners, or of those whose name ends in `what`; before it is taken, or after."""

    number: int
    what: str = ""
    after: bool = False

    def __str__(self) -> str:
        """Say when."""
        return f"{'after' if self.after else 'before'} step {self.number}{f' {self.what}' if self.what else ''}"


@dataclass(frozen=True, slots=True)
class In:
    """`delay` seconds after the journal has taken the first transition of the first guest into a phase."""

    phase: Phase
    delay: float

    def __str__(self) -> str:
        """Say when."""
        return f"{self.delay:.3f} s into {self.phase}"


@dataclass(frozen=True, slots=True)
class Since:
    """`delay` seconds after the fault before has struck."""

    delay: float

    def __str__(self) -> str:
        """Say when."""
        return f"{self.delay:.3f} s after that"


When = At | Nth | In | Since


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: it strikes once, and is mended `lasts` seconds later, unless it has to be suffered for good (STAY)."""

    kind: str
    when: When
    side: str = ""
    lasts: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        """Tell it in words."""
        lasts = "" if self.kind in _NO_LASTING else (" for good" if self.lasts == STAY else f" for {self.lasts:.2f} s")
        amount = f" ({self.amount:g})" if self.amount else ""
        return f"{self.when}: {self.kind}{f' {self.side}' if self.side else ''}{lasts}{amount}"


MOMENTARY: Final = frozenset(
    {"runner dies", "controller loses power", "QEMU is killed", "stream is reset", "cancel", "monitor is lost"}
)

LONG_STEPS: Final = (
    *("resume", "migrate", "continue_stream", "launch", "destroy", "transition", "conclude", "put_vm", "attach"),
    *("cancel_migration", "end_mirror", "start_mirror", "quit", "pause", "create_image", "remove_image", "take_over"),
    *("keep_image", "shorten_send_queue", "restore_send_queue", "plant_token", "listen", "powerdown", "go_over"),
    *("set_capabilities", "stop_serving", "serve_disks", "launch_taker", "hand_over", "leave_image", "observe", "view"),
    *(
        "put_credentials",
        "use_credentials",
        "forget_credentials",
        "remove_credentials",
        "set_parameters",
        "listen_again",
    ),
    *(
        "keep_after_power_off",
        "reset",
        "freeze",
        "serve_frozen",
        "compare_image",
        "thaw",
        "send_again",
        "enter",
        "ended",
    ),
)
PHASES: Final[dict[str, tuple[Phase, ...]]] = {
    "off": (Phase.PREPARING, Phase.MIRRORING, Phase.POWERING_OFF, Phase.STARTING, Phase.COMMITTING, Phase.FINISHING),
    "postcopy": (Phase.PREPARING, Phase.PRECOPY, Phase.SWITCHOVER, Phase.COMMITTING, Phase.POSTCOPY, Phase.FINISHING),
    "": (
        *(Phase.PREPARING, Phase.MIRRORING, Phase.PRECOPY, Phase.SWITCHOVER, Phase.COMMITTING, Phase.FINISHING),
        Phase.ROLLING_BACK,
    ),
}

# -- choosing ------------------------------------------------------------------------------------------------------


def _when(chance: Random, move: Move, *, follows: bool) -> When:
    pick = chance.random()
    if follows and pick < 0.35:
        return Since(chance.choice((0.0, chance.uniform(0, 0.01), chance.uniform(0, 0.5), chance.uniform(0, 15))))
    if pick < 0.55:
        phases = PHASES.get(move.kind, PHASES[""])
        delay = chance.choice((0.0, chance.uniform(0, 0.02), chance.uniform(0, 0.3), chance.uniform(0, 4)))
        return In(chance.choice(phases), delay)
    if pick < 0.8:
        what = chance.choice((*LONG_STEPS, ""))
        number = chance.randint(1, 120) if not what else chance.choice((1, 1, 1, 2, 3, chance.randint(2, 12)))
        return Nth(number, what, chance.random() < 0.5)
    return At(chance.choice((chance.uniform(0, 0.6), chance.uniform(0, 3), chance.uniform(0, 12))))


def _lasts(chance: Random, *, heals: bool) -> float:
    if not heals and chance.random() < 0.5:
        return STAY
    return chance.choice((chance.uniform(0.01, 1), chance.uniform(1, 8), chance.uniform(8, 25), chance.uniform(25, 90)))


WEIGHTS: Final[dict[str, int]] = {
    "runner dies": 10,
    "controller loses power": 4,
    "runner hangs": 2,
    "runner hangs, is followed, and wakes": 5,
    "QEMU is killed": 6,
    "QEMU hangs": 6,
    "QEMU cannot be killed": 2,
    "host crashes": 6,
    "link is cut": 6,
    "stream is reset": 4,
    "host is cut off": 7,
    "reply is lost": 9,
    "reply is late": 3,
    "host is slow": 2,
    "journal is full": 4,
    "disk is full": 3,
    "command is refused": 4,
    "controller's clock jumps": 3,
    "host's clock jumps": 1,
    "link is slow": 3,
    "cancel": 7,
    "monitor is lost": 3,
    "events are lost": 2,
}
REFUSED: Final = (
    *("launch", "cont", "migrate", "migrate-incoming", "migrate-continue", "migrate_cancel", "migrate-set-parameters"),
    *("migrate-set-capabilities", "block-job-cancel", "blockdev-mirror", "nbd-server-start", "nbd-server-stop", "stop"),
    *("system_powerdown", "query-status", "quit", "set-action", "system_reset"),
)


def choose(chance: Random, all_moves: tuple[Move, ...], *, heals: bool) -> tuple[Fault, ...]:
    """Choose what goes wrong."""
    count = chance.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5))
    chosen: list[Fault] = []
    for _ in range(count):
        kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        when = _when(chance, all_moves[0], follows=bool(chosen))
        chosen.append(_fault(chance, kind, when, heals=heals))
    return tuple(chosen)


def _fault(chance: Random, kind: str, when: When, *, heals: bool) -> Fault:
    """Choose what a fault of some kind is like, at an instant."""
    side, lasts = chance.choice(SIDES), _lasts(chance, heals=heals)
    if kind.startswith("reply") and not isinstance(when, Nth):
        when = Nth(chance.randint(1, 120))
    amounts = _AMOUNTS.get(kind)
    amount = amounts(chance) if amounts is not None else 0.0
    if kind.startswith("runner hangs"):
        lasts = chance.choice((chance.uniform(0, 1), chance.uniform(1, 30)))
    if kind in _NO_LASTING or (kind in _MENDED_IN_THE_END and lasts == STAY):
        lasts = _MENDED_IN_THE_END.get(kind, 0.0)
    side = "target" if kind == "disk is full" else side if kind in _ON_A_SIDE else ""
    return Fault(kind, when, side, lasts, amount)


_AMOUNTS: Final[dict[str, Callable[[Random], float]]] = {
    "runner dies": lambda chance: chance.choice((0.02, 0.02, 0.5, chance.uniform(0, 5), chance.uniform(5, 80))),
    "controller loses power": lambda chance: chance.choice((0.02, 0.5, chance.uniform(0, 5), chance.uniform(5, 80))),
    "runner hangs, is followed, and wakes": lambda chance: chance.choice((0.02, 0.5, chance.uniform(0, 5))),
    "reply is late": lambda chance: chance.choice((0.05, 0.6, chance.uniform(0.5, 8))),
    "host is slow": lambda chance: chance.choice((0.02, 0.2, 1.2)),
    "command is refused": lambda chance: chance.randrange(len(REFUSED)),
    "controller's clock jumps": lambda chance: chance.choice((-1, 1)) * chance.choice((0.5, 5.0, 75.0, 3600.0)),
    "host's clock jumps": lambda chance: chance.choice((-1, 1)) * chance.choice((0.5, 5.0, 75.0, 3600.0)),
    "link is slow": lambda chance: chance.choice((1e6, 4e6)),
}
_MENDED_IN_THE_END: Final = {"link is slow": 30.0, "journal is full": 100.0, "host is slow": 60.0}
_NO_LASTING: Final = MOMENTARY | {"reply is lost", "reply is late", "controller's clock jumps", "host's clock jumps"}
_ON_A_SIDE: Final = frozenset(
    {"QEMU is killed", "QEMU hangs", "QEMU cannot be killed", "host crashes", "host is cut off", "host is slow"}
    | {"command is refused", "host's clock jumps", "monitor is lost", "events are lost"}
)

# -- doing -----------------------------------------------------------------------------------------------------------


def strike(story: Story, fault: Fault, guest: str) -> Disturbance | None:
    """Let a fault happen to a guest's move, here and now; returns what it does to the step that is being taken."""
    story.world.faulty = True
    try:
        return _KINDS[fault.kind](story, fault, guest)
    finally:
        story.world.faulty = False


def _runner_dies(story: Story, fault: Fault, guest: str) -> None:
    story.pauses[guest] = fault.amount
    story.controllers[guest].die()


def _power_fails(story: Story, fault: Fault, _: str) -> None:
    for guest, controller in story.controllers.items():
        story.pauses[guest] = fault.amount
        controller.die("the controller lost its power", silently=True)
    story.store.lose_power(lambda: story.chance.random() < 0.5)


def _runner_hangs(story: Story, fault: Fault, guest: str) -> None:
    controller = story.controllers[guest]
    controller.pause()
    story.later(fault, controller.wake)


def _followed(story: Story, fault: Fault, guest: str) -> None:
    controller = story.controllers[guest]
    story.pauses[guest] = fault.amount
    controller.pause()
    controller.followed.set()
    story.later(fault, controller.wake)


def _process(story: Story, side: str, guest: str) -> str:
    """Return the name under which a side's host knows the guest's process, empty where there is none."""
    host, vm = story.host_of(side, guest), story.vm_on(side, guest)
    qemu = host.process_of(vm)
    return next((name for name, one in host.qemus.items() if one is qemu), "")


def _killed(story: Story, fault: Fault, guest: str) -> None:
    if name := _process(story, fault.side, guest):
        host = story.host_of(fault.side, guest)
        host.qemus[name].exit("it was killed")


def _hangs(story: Story, fault: Fault, guest: str) -> None:
    if name := _process(story, fault.side, guest):
        qemu = story.host_of(fault.side, guest).qemus[name]
        if not qemu.hung:
            qemu.hang()
            story.later(fault, qemu.wake)


def _cannot_be_killed(story: Story, fault: Fault, guest: str) -> None:
    if name := _process(story, fault.side, guest):
        qemu = story.host_of(fault.side, guest).qemus[name]
        if not qemu.hung:
            qemu.hang()
            story.world.stuck.add(qemu.pid)

            def mend() -> None:
                story.world.stuck.discard(qemu.pid)
                qemu.wake()

            story.later(fault, mend)


def _crashes(story: Story, fault: Fault, guest: str) -> None:
    host = story.host_of(fault.side, guest)
    if host.crashed:
        return
    story.world.crash_host(host.name)
    story.later(fault, lambda: story.world.restore_host(host.name))


def _link(story: Story, fault: Fault, _: str) -> None:
    story.world.cut(*HOSTS)
    story.later(fault, lambda: story.world.heal(*HOSTS))


def _reset(story: Story, _: Fault, guest: str) -> None:
    for qemu in story.world.qemus_of(guest):
        if qemu.stream is not None:
            qemu.stream.end("failed")
            return


def _cut_off(story: Story, fault: Fault, guest: str) -> None:
    name = story.host_of(fault.side, guest).name
    story.world.cut(name)
    story.later(fault, lambda: story.world.heal(name))


def _reply_lost(story: Story, fault: Fault, _: str) -> Disturbance | None:
    after = isinstance(fault.when, Nth) and fault.when.after
    del story
    return Disturbance(AFTER if after else BEFORE)


def _reply_late(_: Story, fault: Fault, __: str) -> Disturbance | None:
    return Disturbance(LATE, fault.amount)


def _slow(story: Story, fault: Fault, guest: str) -> None:
    name = story.host_of(fault.side, guest).name
    story.world.delay(name, fault.amount)
    story.later(fault, lambda: story.world.delay(name, 0.0))


def _journal_full(story: Story, fault: Fault, _: str) -> None:
    story.store.full = True
    for controller in story.controllers.values():
        controller.hindered = True

    def mend() -> None:
        story.store.full = False

    story.later(fault, mend)


def _disk_full(story: Story, fault: Fault, guest: str) -> None:
    name = story.host_of("target", guest).name
    story.world.fill_disk(name)
    story.later(fault, lambda: story.world.full.discard(name))


def _refused(story: Story, fault: Fault, guest: str) -> None:
    name, command = story.host_of(fault.side, guest).name, REFUSED[int(fault.amount)]
    if command == "query-status" or (fault.lasts == STAY and command == "cont"):
        story.world.refuse(name, command, times=1)
        return
    story.world.refuse(name, command)
    story.later(fault, lambda: story.world.refuse(name, command, times=0))


def _jump(story: Story, fault: Fault, _: str) -> None:
    story.offset += fault.amount


def _host_jump(story: Story, fault: Fault, guest: str) -> None:
    story.host_of(fault.side, guest)._clock_offset += fault.amount


def _slow_link(story: Story, fault: Fault, _: str) -> None:
    before = story.plan.rate
    story.world.shape(*HOSTS, fault.amount)
    story.later(fault, lambda: story.world.shape(*HOSTS, before))


def _monitor_lost(story: Story, fault: Fault, guest: str) -> None:
    host = story.host_of(fault.side, guest)
    for monitor in host.monitors():
        if monitor in story.controllers[guest].guests:
            monitor.lose("the connection was reset")


def _deaf(story: Story, fault: Fault, guest: str) -> None:
    name = story.host_of(fault.side, guest).name
    story.deaf.add(name)
    story.later(fault, lambda: story.deaf.discard(name))


def _cancel(story: Story, _: Fault, guest: str) -> None:
    story.wish(guest)


_KINDS: Final[dict[str, Callable[[Story, Fault, str], Disturbance | None]]] = {
    "runner dies": _runner_dies,
    "controller loses power": _power_fails,
    "runner hangs": _runner_hangs,
    "runner hangs, is followed, and wakes": _followed,
    "QEMU is killed": _killed,
    "QEMU hangs": _hangs,
    "QEMU cannot be killed": _cannot_be_killed,
    "host crashes": _crashes,
    "link is cut": _link,
    "stream is reset": _reset,
    "host is cut off": _cut_off,
    "reply is lost": _reply_lost,
    "reply is late": _reply_late,
    "host is slow": _slow,
    "journal is full": _journal_full,
    "disk is full": _disk_full,
    "command is refused": _refused,
    "controller's clock jumps": _jump,
    "host's clock jumps": _host_jump,
    "link is slow": _slow_link,
    "cancel": _cancel,
    "monitor is lost": _monitor_lost,
    "events are lost": _deaf,
}
