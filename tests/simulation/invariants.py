"""What must hold: at every event (Watch), and when a story has ended and all faults are mended (judge)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from direct import judge_device
from godwit.core.hooks import Hook, last_hook
from godwit.core.state import Door, Held, Phase
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from gates import Controller
    from story import Story

    from godwit.core.state import State
    from godwit.hosts.fake import FakeQemu
    from godwit.model import Outcome

MOVED: Final = frozenset({OutcomeStatus.COMPLETED, OutcomeStatus.UNVERIFIED})
STAYED: Final = frozenset({OutcomeStatus.FAILED, OutcomeStatus.CANCELLED, OutcomeStatus.REFUSED})


@dataclass(eq=False)
class Watch:
    """Looks at the world whenever something has happened."""

    story: Story
    _laws: int = 0
    ran_there: set[str] = field(default_factory=set)
    """Guests that have executed on the target."""
    committed: set[str] = field(default_factory=set)
    """Guests of which the journal says on disk that they are the target's."""

    taken_back: dict[str, float] = field(default_factory=dict)
    """When guests that were to be switched off had been seen to, on the way back."""

    def __post_init__(self) -> None:
        """Be told of what happens."""
        self.story.world.on_began = self.began
        self.story.world.on_ended = self.ended

    def look(self) -> None:
        """Take note of laws that were broken."""
        laws = self.story.world.broken_laws
        for law in laws[self._laws :]:
            self.story.violated(law)
        self._laws = len(laws)

    def on_target(self, qemu: FakeQemu) -> bool:
        """Say whether a process is the one that the guest is to move to."""
        spec = self.story.scene.specs[qemu.vm.name]
        if spec.upgrade is not None:
            return qemu.vm.control == spec.upgrade.after.control
        return qemu.host.name == spec.target

    def began(self, qemu: FakeQemu) -> None:
        """Note that a process executes."""
        guest = qemu.vm.name
        if guest not in self.story.controllers:
            return
        if self.on_target(qemu):
            if self.story.durable(guest).door is Door.CLOSED:
                self.story.violated(f"{guest} executes on the target, and the journal on disk does not permit it")
            self.ran_there.add(guest)
        else:
            if guest in self.committed:
                self.story.violated(f"{guest} executes on the source after it was committed")
            if guest in self.ran_there:
                self.story.violated(f"{guest} executes on the source after it ran on the target")
        self.look()

    def ended(self, qemu: FakeQemu, words: str) -> None:
        """Note that a process has ended, and whether Godwit ended the only copy of a guest."""
        guest, world = qemu.vm.name, self.story.world
        self.story.say(f"the QEMU of {guest} on {qemu.host.name} (process {qemu.pid}) ended: {words}")
        known = guest in world.lost
        if world.faulty:
            world.hit.add(guest)
        world.judge_loss(guest, f"its QEMU on {qemu.host.name} ended: {words}")
        if guest in world.hit and self.story.durable(guest).phase is Phase.ROLLING_BACK:
            return  # the way back had begun when the source died: what the target has is ended, see docs/limits.md
        if guest in world.lost and not known and not world.faulty:
            self.story.violated(f"the only copy of {guest} ended without a fault, on {qemu.host.name}: {words}")

    def taken(self, guest: str, state: State) -> None:
        """Take note of what the journal has taken, on disk or not yet."""
        if state.phase in {Phase.ROLLING_BACK, Phase.FAILED, Phase.CANCELLED} and Held.POWER not in state.held:
            self.taken_back.setdefault(guest, self.story.world.clock.now())

    def journalled(self, guest: str, state: State) -> None:
        """Take note of what is in the journal on disk."""
        self.story.say(f"journal of {guest}: {state.phase}, door {state.door}, {state.owner} owns it")
        if state.owner is Owner.TARGET and state.failure is None:
            self.committed.add(guest)

    def heard(self, guest: str, controller: Controller | None) -> None:
        """Ask whether a wish to cancel was taken down, by a runner that nothing has kept from it."""
        if controller is None or not controller.alive or controller.hindered or self.story.store.full:
            return
        state = self.story.store.journal._story(self.story.scene.specs[guest].id).state
        if not (state.cancel_requested or state.finished or state.phase in {Phase.ROLLING_BACK, Phase.LIMBO}):
            self.story.violated(f"a wish to cancel the move of {guest} is not heard: it is {state.phase}")

    def in_limbo(self, guest: str, outcome: Outcome) -> None:
        """Ask for evidence where nobody can know."""
        self.story.say(f"{guest}: LIMBO: {outcome.error}")
        said = outcome.error
        if "belongs to the source" not in said and ("source: " not in said or "target: " not in said):
            self.story.violated(f"{guest} is in limbo, and it is not said what both sides showed: {outcome.error}")


async def judge(story: Story) -> None:
    """Judge how a story has ended."""
    story.watch.look()
    for guest, outcome in story.outcomes.items():
        _judge_success(story, guest, outcome)
        _judge_place(story, guest, outcome)
        _judge_remains(story, guest, outcome)
        _judge_hooks(story, guest, outcome)
        judge_device(story, guest, outcome)
        await _judge_journal(story, guest, outcome)


def _judge_hooks(story: Story, guest: str, outcome: Outcome) -> None:
    """Hooks tell their programs what is so: no move begins without the first, and the last says how it ended."""
    names = story.hooks.names(guest)
    last = last_hook(outcome.status)
    began = outcome.status in MOVED or guest in story.watch.ran_there
    if began and Hook.BEFORE_MOVE not in names:
        story.violated(f"{guest} went on its way and the hook before it was not run: {names}")
    if last is not None and Hook.BEFORE_MOVE in names and names[-1] != last:
        story.violated(f"{guest} is {outcome.status}, and the last hook was {names[-1]}: {names}")
    if outcome.status in MOVED and Hook.AFTER_SWITCHOVER not in names and not _said_not_run(outcome):
        story.violated(f"{guest} was moved, and no hook was told that it runs on the target: {names}")
    if Hook.AFTER_SWITCHOVER in names and guest not in story.watch.ran_there:
        story.violated(f"{guest} never ran on the target, and a hook was told so")


def _said_not_run(outcome: Outcome) -> bool:
    """Say whether the user was told that the hook was not run, as where the journal could not be written."""
    return any(f"{Hook.AFTER_SWITCHOVER} was not run" in finding.found for finding in outcome.findings)


def _judge_success(story: Story, guest: str, outcome: Outcome) -> None:
    """Where nothing goes wrong a guest is moved, unless it was given no time for that, or does not obey."""
    excused = outcome.status in MOVED or "deadline" in outcome.error or "power button" in outcome.error
    excused = excused or "did not let go" in outcome.error
    if not story.faulted and not excused:
        story.violated(f"{guest} is {outcome.status}, and nothing had gone wrong: {outcome.error}")


def _judge_place(story: Story, guest: str, outcome: Outcome) -> None:
    """The guest runs where the outcome says, once, unless a fault has destroyed the only copy."""
    world = story.world
    runs = [qemu for qemu in world.qemus_of(guest) if qemu.raw == "running"]
    sides = ["target" if story.watch.on_target(qemu) else "source" for qemu in runs]
    if len(runs) > 1:
        story.violated(f"{guest} runs twice at the end: {', '.join(qemu.host.name for qemu in runs)}")
    if guest in world.hit:  # what went over to a process that was gone is lost since then
        world.judge_loss(guest, "nobody has all of its memory")
    lost = world.lost.get(guest)
    if outcome.status is OutcomeStatus.LIMBO:
        return
    if lost is None:
        expected = "target" if outcome.status in MOVED else "source"
        if outcome.status is OutcomeStatus.GUEST_CRASHED:
            if not _may_have_crashed(story, guest):
                story.violated(f"{guest} is said to have crashed, and a copy of it lives: {outcome.error}")
        elif sides != [expected] and not _excused(story, guest, outcome, expected):
            left = [f"{qemu.raw} on {qemu.host.name}" for qemu in world.qemus_of(guest)]
            story.violated(
                f"{guest} is {outcome.status} and does not run on the {expected}: {', '.join(left) or 'gone'}"
            )
    elif sides and guest not in world.restarted and outcome.status is not OutcomeStatus.GUEST_CRASHED:
        story.violated(f"{guest} was lost ({lost}) and runs: {sides}")


def _may_have_crashed(story: Story, guest: str) -> bool:
    """Say whether nobody could know better: a target that was ready died, and what is left on the source is named."""
    world, target = story.world, story.host_of("target", guest)
    gone = guest in world.hit and target.process_of(story.vm_on("target", guest)) is None
    return gone and (guest in world.off or any("stale" in left for left in story.durable(guest).leftovers))


def _excused(story: Story, guest: str, outcome: Outcome, expected: str) -> bool:
    """Say whether nobody could do more: the guest switched itself off later, or its host is silent to this day."""
    named = " ".join(story.durable(guest).leftovers) + outcome.error
    off, back = story.world.off.get(guest), story.watch.taken_back.get(guest)
    if off is not None and (back is not None and off > back and "power button" in named):
        return True  # it listened to its power button when it had been waited for long enough, and that is told
    gone = "process on the source died" in named or f"{guest} has no process" in named
    if gone and outcome.status is OutcomeStatus.FAILED and guest in story.world.hit:
        return True  # the way back had begun: what the target has may be older than the disks
    host = story.host_of(expected, guest)
    silent = not host.reachable or any(qemu.hung for qemu in host.qemus.values() if qemu.vm.name == guest)
    return silent and host.name in named


def _judge_remains(story: Story, guest: str, outcome: Outcome) -> None:
    """Nothing is left on the losing side, unless it is named."""
    if outcome.status in {OutcomeStatus.LIMBO, OutcomeStatus.GUEST_CRASHED}:
        return
    losing = "source" if outcome.status in MOVED else "target"
    named = " ".join(story.durable(guest).leftovers) + outcome.error
    for what, host in _remains(story, guest, losing):
        if not (host in named or (guest in named and story.durable(guest).leftovers)):
            story.violated(f"{guest} is {outcome.status}, and {what} is left on {host}, and not named")


def _remains(story: Story, guest: str, losing: str) -> list[tuple[str, str]]:
    """Return what is left of a move that should not be: what, and on which host."""
    world, found = story.world, []
    spec, move = story.scene.specs[guest], next(one for one in story.plan.moves if one.guest == guest)
    found += _macvtaps(story, guest, losing) if move.macvtap else []
    for qemu in world.qemus_of(guest):
        name = qemu.host.name
        if story.watch.on_target(qemu) == (losing == "target"):
            found.append((f"a process ({qemu.raw})", name))
            continue
        found.extend((what, name) for what, there in _set(qemu, move.workload.memory) if there)
    for host in story.scene.hosts.values():
        if host.crashed:
            continue
        if spec.id in host.leases:
            found.append(("a short send queue", host.name))
        found += [("a transfer", host.name) for owner in (*host.takes, *host.sends) if owner.startswith(f"{guest}.")]
        found += [("a key", host.name) for owner, _ in host.credentials if owner.startswith(f"{guest}.")]
        for path in world._files:
            file = world.file(path, host.name)
            if file is None or guest not in path:
                continue
            if world.tokens.get(file.inode, "").startswith(spec.id) and not story.faulted:
                found.append((f"a token beside {path}", host.name))
            if world.owned.get(file.inode) == spec.id:
                found.append((f"an image that was made, {path}", host.name))
    return found


def _macvtaps(story: Story, guest: str, losing: str) -> list[tuple[str, str]]:
    """Return the macvtaps of a guest that are on the network where it is not, and off it where it runs."""
    (tap,) = story.scene.vms[guest].launch.taps
    spec, found = story.scene.specs[guest], []
    for host in story.scene.hosts.values():
        lost = (spec.source if losing == "source" else spec.target) == host.name
        if lost and tap.interface in host.opened and not host.crashed:
            found.append(("a macvtap that is up", host.name))
        elif not lost and tap.interface not in host.opened and host.name in story.world.executing(guest):
            found.append(("a macvtap that is down", host.name))
    return found


def _set(qemu: FakeQemu, memory: int) -> list[tuple[str, bool]]:
    return [
        ("a copy of a disk under way", bool(qemu.blocks.mirrors)),
        ("an NBD server", qemu.blocks.disks_port is not None or qemu.blocks.frozen_port is not None),
        ("a capability", any(qemu.capabilities.values())),
        ("an inflated balloon", qemu.balloon != memory),
        ("a QEMU that outlives its guest", qemu.outlives),
        ("a key that its QEMU goes by", qemu.tls.keys is not None),
    ]


async def _judge_journal(story: Story, guest: str, outcome: Outcome) -> None:
    """The journal agrees with what was said and with the world."""
    row, state = await story.store.journal.load(story.scene.specs[guest].id)
    if row.outcome != outcome:
        story.violated(f"the journal has another outcome of {guest} than its runner: {row.outcome}")
    if outcome.status is OutcomeStatus.LIMBO:
        return
    if not state.finished:
        story.violated(f"{guest} has ended as {outcome.status}, and its journal says {state.phase}")
    home = await story.store.inventory.vm(guest)
    side = "target" if outcome.owner is Owner.TARGET else "source"
    if (home.host, home.control) != (story.host_of(side, guest).name, story.vm_on(side, guest).control):
        story.violated(f"{guest} is the {outcome.owner}'s, and the inventory says {home.host}, {home.control}")
