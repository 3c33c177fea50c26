"""What each command of the machine does to the world. Every action ends in an event, or raises a GodwitError."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.ballooning import reclaim_of
from godwit.core.capabilities import (
    CONVERGE_DEFAULTS,
    UNTOUCHED,
    Negotiated,
    first_parameters,
    multifd_parameters,
    negotiate,
    send_queue_bytes,
    strategy_parameters,
)
from godwit.core.devices import joined
from godwit.core.direct import held_by_state
from godwit.core.disks import copies, media, stamp_name, to_send
from godwit.core.preflight import blocking, check, check_upgrade
from godwit.core.preflight.machine import dotted
from godwit.core.strategy import Switchover, adjusted
from godwit.core.trust import encrypts
from godwit.core.upgrading import copy_uri, path_in_place
from godwit.engine.comparing import Comparing
from godwit.engine.encrypting import Encrypting, settled
from godwit.engine.expecting import link_pace
from godwit.engine.gather import gather
from godwit.engine.matching import bind, found_on_the_way
from godwit.engine.pacing import Pace
from godwit.engine.settings import Settings
from godwit.engine.trimming import trimmed
from godwit.engine.upgrading import gather_upgrade, hand_over, start_taker
from godwit.engine.waiting import Waiting
from godwit.errors import (
    GodwitError,
    HypervisorError,
    JournalError,
    LimboError,
    MigrationFailedError,
    MonitorLostError,
    RefusedError,
)
from godwit.model import (
    MIGRATION_PORTS,
    DevicePolicy,
    Finding,
    GuestFacts,
    RunState,
    Severity,
    Side,
    Strategy,
    Way,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from godwit.core.ledger import Ledger
    from godwit.core.passes import Foreseen
    from godwit.core.preflight.evidence import Evidence
    from godwit.engine.parts import Parts
    from godwit.engine.sides import Sides
    from godwit.model import DirectDevice, DirtyWindow, DiskCopy, Features, GuestView, Launch, Vm
    from godwit.ports import Guest

CONTINUE_PATIENCE: Final = 60.0
"""Seconds for which a target that does not run is told to, before that is left to a person."""

RUNNING_DEADLINE: Final = 5.0
"""Seconds for which a QEMU that was told to run is looked at until it does."""

_POLL: Final = 0.05
_LONGEST_CONTINUE_PAUSE: Final = 2.0


@dataclass(slots=True)
class Actions:
    """Carries out commands. `facts` is known once Check has run; after a crash nothing needs it any more."""

    parts: Parts
    sides: Sides
    ledger: Ledger
    switchover: Switchover
    """What the source's QEMU goes by: as far as it has accepted it."""
    findings: tuple[Finding, ...] = ()
    facts: GuestFacts | None = None
    result: dict[str, float] = field(default_factory=dict)
    qemus: tuple[str, str] | None = None
    """The versions of the old and the new QEMU, where the guest stays on its host."""
    in_place: bool = False
    """Whether the new QEMU takes the memory as it stands."""
    disk_bytes: int = 0
    """What travels of disks before the memory, as far as anybody can say beforehand."""
    balloon: int = 0
    """The bytes of memory that the guest's balloon leaves to it, where that is to take some of them."""
    reclaim: int = 0
    """The bytes of free memory that it is to take."""
    strategy: Strategy = field(default_factory=Strategy)
    """How pages travel."""
    choose: Callable[[Features, Features, Sequence[DiskCopy]], Awaitable[Strategy]] | None = None
    """Chooses that from what the QEMUs of both sides can do, and from the disks that travel."""
    slowly: Callable[[], Awaitable[int | None]] | None = None
    """Says with how many bytes a second a stream begins that is to spare others; None: with as many as it may."""
    before: Callable[[], Awaitable[None]] | None = None
    """What is to happen when all checks are passed, before anything is changed; it may refuse."""
    foreseen: Foreseen | None = None
    """What is thought of the guest and its stream; None for a runner that took over."""
    waited: float = 0.0
    """The seconds for which the move was put off."""
    windows: tuple[DirtyWindow, ...] = ()
    """What the guest was measured to change at the end of that."""
    encrypted: bool | None = None
    """Whether what is sent is encrypted; None where nothing leaves the host, and for who does not know."""
    without: dict[str, str] = field(default_factory=dict)
    """The devices that the target's QEMU is started without: they follow when the guest runs there."""
    bound: tuple[DirectDevice, ...] = ()
    """Those that it is started with although they are parts of its host."""
    encrypting: Encrypting = field(init=False)
    _copying: dict[tuple[str, bool], Pace] = field(default_factory=dict)
    _address: str = ""
    _source_features: Features | None = None
    _target_compressions: tuple[str, ...] = ()
    _continue_pause: float = 0.0
    _first_refusal: float | None = None
    _negotiated: asyncio.Future[Negotiated] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        """Have one that sees to the keys."""
        self.encrypting = Encrypting(self)

    @property
    def address(self) -> str:
        """Where the target takes what is sent to it; empty for a runner that took over."""
        return self._address

    @property
    def tunable(self) -> frozenset[str]:
        """The migration parameters that the source's QEMU has; none until it was asked."""
        return self._source_features.parameters if self._source_features else frozenset()

    async def ask_source(self, guest: Guest) -> None:
        """Ask the source's QEMU what it can do, as a runner that took over has to."""
        if self._source_features is None:
            self._source_features = await guest.features()

    def note(self, kind: str, /, **data: object) -> None:
        """Write to the journal what nobody acts upon."""
        self.parts.journal.note(self.parts.spec.id, kind, self.parts.clock.now(), data)

    def note_copied(self, name: str, done: int, needed: int, *, ready: bool) -> None:
        """Write to the journal how far the copy of a disk is, in bytes, beside the memory that follows it."""
        memory = self.facts.memory if self.facts else None
        pace = self._copying.setdefault((name, ready), Pace())  # that it is ready, or is no more, is always worth it
        if pace.worth(self.parts.clock.now()):
            self.note("mirror", name=name, done=done, needed=needed, ready=ready, memory=memory)

    def find(self, finding: Finding) -> None:
        """Keep and journal something that the user should know."""
        self.findings = (*self.findings, finding)
        self.note(
            "finding",
            code=finding.code,
            severity=finding.severity.value,
            subject=finding.subject,
            found=finding.found,
            why=finding.why,
            mend=finding.mend,
        )

    def warn(self, code: str, found: str, why: str, mend: str = "") -> None:
        """Keep a finding that came up on the way."""
        self.find(Finding(code, Severity.WARN, self.parts.vm.name, found, why, mend))

    # -- the way there ---------------------------------------------------------------------------------------------

    async def check(self, _: e.Check) -> e.Event:
        """Gather facts, run preflight; a blocking finding ends the migration before anything was changed."""
        await asyncio.gather(self.parts.source.connect(), self.parts.target.connect())
        guest = await self.sides.attach(Side.SOURCE)
        upgrade = self.parts.spec.upgrade is not None
        evidence, features = await asyncio.gather(self._examined(guest), guest.features())
        here = evidence.source.qemu
        self._source_features = replace(features, compressions=frozenset(here.compressions if here else ()))
        if await Waiting(self).for_a_quieter_moment(self._source_features, evidence):
            evidence = await self._examined(await self.sides.attach(Side.SOURCE))
        there = evidence.target.qemu
        self._target_compressions = there.compressions if there else ()
        assert evidence.target.qemu is not None  # noqa: S101 - that would have blocked; for the type checker
        launch = self.parts.hypervisor.fitted(evidence.guest.launch, evidence.target.qemu)
        policy = self.parts.spec.policy
        devices = () if upgrade else await found_on_the_way(await self.sides.attach(Side.SOURCE), evidence)
        launch = self.parts.hypervisor.with_devices(launch, {one.name: one.there for one in devices})
        self.facts = replace(evidence.guest, launch=launch)
        devices = held_by_state(policy, devices)
        self.without = {one.name: "" for one in devices if one.policy is DevicePolicy.UNPLUG}
        self.bound = tuple(one for one in devices if one.function and one.name not in self.without)
        self.in_place = upgrade and not evidence.hindrances
        if upgrade:
            old, new = dotted(evidence.guest.qemu_version), dotted(evidence.target.qemu.version)
            self.qemus = (old, new)
            self.note("upgrade", old=old, new=new)
        self._address = evidence.target.migration_address
        evidence = replace(evidence, disks=await trimmed(self, evidence.disks))
        self.disk_bytes = to_send(policy, evidence.disks)
        travelling = copies(policy, evidence.disks, stamp_name(self.parts.spec.id))
        anew = launch if policy.way is Way.OFF else None
        reclaim = reclaim_of(policy, evidence.balloon, evidence.resident)
        if evidence.balloon is not None and reclaim:
            self.balloon, self.reclaim = evidence.balloon.size, reclaim
        read = media(policy, evidence.disks)
        if not upgrade and (travelling or read or policy.way is not Way.OFF):  # else nothing leaves the host
            self.encrypted = encrypts(self.parts.spec)
            self.note("encryption", encrypted=self.encrypted)
        if self.before is not None:
            await self.before()
        return e.Checked(travelling, policy.way, anew, read, self.balloon, bool(self.encrypted), devices)

    async def _examined(self, guest: Guest) -> Evidence:
        """Gather facts and run preflight. Raises RefusedError for a blocking finding."""
        upgrade = self.parts.spec.upgrade is not None
        evidence = await (gather_upgrade if upgrade else gather)(self.parts, guest)
        found = check_upgrade(evidence) if upgrade else check(evidence)
        for finding in found:
            if finding not in self.findings:
                self.find(finding)
        if blocked := blocking(found):
            first = blocked[0]
            others = f" (and {len(blocked) - 1} more)" if len(blocked) > 1 else ""
            message = f"{first.found}: {first.why}{others}"
            raise RefusedError(message, remedy=first.mend)
        return evidence

    async def prepare_target(self, command: e.PrepareTarget) -> e.Event:
        """Start the target paused on the images that were made, agree on capabilities, listen."""
        assert self.facts is not None  # noqa: S101 - Check came before; for the type checker
        assert self._source_features is not None  # noqa: S101 - as above
        vm, target = self.parts.vm_on(Side.TARGET), self.parts.target
        await Comparing(self).prepare(command.copies)
        if self.in_place:
            await target.prepare_launch(vm, self.facts.launch)
            uri, agreed = await start_taker(self.parts, self.facts.launch, self._source_features)
            self._negotiated.set_result(agreed)
            return e.TargetPrepared(uri)
        launch = self.parts.hypervisor.with_devices(self.facts.launch, self.without)
        await bind(self.parts, self.bound)
        guest = await self._launched(vm, launch, encrypted=command.encrypted)
        if self.parts.spec.policy.way is Way.OFF:  # no stream will come: it takes disks, and shows that it starts here
            return e.TargetPrepared("", await self._serve(guest, command) if command.copies else "")
        features = replace(await guest.features(), compressions=frozenset(self._target_compressions))
        if self.choose is not None:
            self.strategy = await self.choose(self._source_features, features, command.copies)
        self.note("strategy", **asdict(self.strategy))
        wanted = None if self.parts.spec.defaults else self.strategy
        agreed = negotiate(
            self._source_features, features, wanted, holding=bool(command.copies), converge=self.parts.spec.converge
        )
        if agreed.lacking:
            message = f"QEMU lacks a capability that a migration needs: {'; '.join(agreed.lacking)}"
            raise HypervisorError(message, remedy="install a newer QEMU on the side named")
        await guest.set_capabilities(agreed.target)
        if wanted is not None and (alike := multifd_parameters(wanted)):
            await guest.set_parameters(alike)
        self._negotiated.set_result(agreed)
        for missing in agreed.missing:
            self.note("note", text=f"capability not available: {missing}")
        if command.copies:  # nobody need know that it waits for a stream before there is one
            return e.TargetPrepared("", await self._serve(guest, command))
        return e.TargetPrepared(await self.listen(guest, self._address))

    async def _launched(self, vm: Vm, launch: Launch, *, encrypted: bool) -> Guest:
        """Start the target's QEMU while its keys are written; it can encrypt before it opens any port."""
        target = self.parts.target
        putting = self.encrypting.putting(Side.TARGET) if encrypted else None
        try:
            await target.prepare_launch(vm, launch)
            pid = await target.launch(vm, launch, incoming=True)
            guest = await self.sides.attach(Side.TARGET)
            if putting is not None:
                await self.encrypting.let_in(guest, putting, pid)
        finally:
            await settled(putting)
        return guest

    async def _serve(self, guest: Guest, command: e.PrepareTarget) -> str:
        """Let the target take disks; returns where, as address:port."""
        port = await self.parts.target.free_port()
        await guest.serve_disks(self._address, port, command.copies, encrypted=command.encrypted)
        return f"{self._address}:{port}"

    async def listen(self, guest: Guest, at: str) -> str:
        """Make the target listen at that address, and return where.

        Between looking for a free port and claiming it somebody else may have taken it. QEMU goes on to the next one by
        itself then; told to listen once more it would refuse, for good ("Illegal migration incoming state").
        """
        if self.parts.spec.upgrade is not None:
            return await guest.listen(copy_uri(self.parts.vm_on(Side.TARGET)))
        address = f"[{at}]" if ":" in at else at
        first, last = await self.parts.target.free_port(), MIGRATION_PORTS[-1]
        self.sides.asked[Side.TARGET, "setup"] = self.parts.clock.now()
        try:
            return await guest.listen(f"tcp:{address}:{first},to={last}")
        except HypervisorError as error:
            if "in use" not in error.message:
                raise
            message = f"all TCP ports from {first} to {last} are in use on {self.parts.target.name}"
            raise MigrationFailedError(message, remedy="see with `ss -tan` what uses them") from error

    async def prepare_source(self, command: e.PrepareSource) -> e.Event:
        """Shorten the send queue while keys are written, then set what was agreed upon."""
        pid = self.facts.pid if self.facts is not None else None
        putting = self.encrypting.putting(Side.SOURCE, pid) if command.encrypted else None
        try:
            if self.parts.spec.policy.way is not Way.OFF:
                await self._set_source(encrypted=command.encrypted)
            if putting is not None:
                await self.encrypting.come(await self.sides.attach(Side.SOURCE), putting)
        finally:
            await settled(putting)
        return e.SourcePrepared()

    async def _shorten_send_queue(self, *, encrypted: bool) -> None:
        pace = None
        if encrypted:
            try:
                pace = await link_pace(self.parts.journal, self.parts.spec)
            except JournalError as error:  # it is as if nobody knew
                self.note("note", text=f"what the link carries could not be read: {error.message}")
        size = send_queue_bytes(pace, encrypted=encrypted)
        if not await self.parts.source.shorten_send_queue(self.parts.spec.id, size):
            self.note("note", text="the send queue of the source could not be shortened; the blackout may be longer")

    async def _set_source(self, *, encrypted: bool) -> None:
        spec = self.parts.spec
        if spec.upgrade is None and not spec.defaults:  # else it goes through no TCP, or is QEMU's own affair
            await self._shorten_send_queue(encrypted=encrypted)
        agreed = await self._negotiated
        guest = await self.sides.attach(Side.SOURCE)
        await guest.set_capabilities(agreed.source)
        parameters = first_parameters(spec.policy, defaults=spec.defaults)
        # A move whose end nobody saw may have left other values.
        parameters |= {name: value for name, value in UNTOUCHED.items() if name in self.tunable}
        if self._source_features is not None and self.facts is not None and not spec.defaults:
            chosen = strategy_parameters(self.strategy, self._source_features, self.facts.memory)
            self.switchover = replace(
                adjusted(self.switchover, chosen),
                postcopy=self.strategy.postcopy,
                over_after=self.strategy.over_after,
            )
            parameters |= chosen
        if self.slowly is not None and (most := await self.slowly()) is not None:
            parameters["max-bandwidth"] = most
            self.switchover = replace(self.switchover, bandwidth=most)
        if spec.converge:
            parameters |= CONVERGE_DEFAULTS
        await guest.set_parameters(parameters)
        if self.strategy.reclaim:
            await Settings(self).take_free_memory(guest, self.balloon, self.strategy.reclaim)

    async def start_stream(self, command: e.StartStream) -> e.Event:
        """Tell the source to send."""
        guest = await self.sides.attach(Side.SOURCE)
        now = self.parts.clock.now()
        self.sides.asked[Side.SOURCE, "setup"] = now
        self.mark("stream_started", now)
        if (path := path_in_place(command.uri)) is not None:
            await hand_over(self.sides, path)
        else:
            await guest.migrate(command.uri)
        return e.StreamStarted()

    def mark(self, name: str, at: float) -> None:
        """Keep an instant of our own, in the journal, too."""
        if self.ledger.mark(name, at):
            self.note("mark", name=name, received=at)

    async def adjust(self, command: e.Adjust) -> e.Event | None:
        """Change parameters of the running stream."""
        guest = await self.sides.attach(Side.SOURCE)
        await guest.set_parameters(dict(command.parameters))
        self.switchover = adjusted(self.switchover, command.parameters)
        return None

    async def go_over(self, _: e.GoOver) -> None:
        """Let the guest go over to the target before its memory; both sides say when it does."""
        await (await self.sides.attach(Side.SOURCE)).go_over()

    async def continue_target(self, _: e.ContinueTarget) -> e.Event:
        """Go through the one-way door; RESUME or the status counts, not that `cont` returned.

        A target that did not obey is told again, each time a little later. Raises LimboError for one that has not for
        CONTINUE_PATIENCE seconds: the source may not run any more, so what happens now is for a person to say.
        """
        await self.parts.clock.sleep(self._continue_pause)
        self._continue_pause = min(2 * self._continue_pause + _POLL, _LONGEST_CONTINUE_PAUSE)
        try:
            return await self._continue()
        except MonitorLostError:
            raise
        except HypervisorError as error:
            now = self.parts.clock.now()
            self._first_refusal = self._first_refusal or now
            if now - self._first_refusal < CONTINUE_PATIENCE:
                raise
            shown = await self._shown()
            message = f"the target has everything and does not run, though it was told to {shown}: {error.message}"
            raise LimboError(message) from error

    async def _shown(self) -> str:
        """Say what both sides show, for whoever has to decide."""
        source, target = await asyncio.gather(self.sides.look(Side.SOURCE), self.sides.look(Side.TARGET))
        return f"(source: {source.state}, target: {target.state})"

    async def _continue(self) -> e.Event:
        guest = await self.sides.attach(Side.TARGET)
        sent = self.parts.clock.now()
        self.sides.asked[Side.TARGET, "RESUME"] = sent
        self.ledger.mark("continue_sent", sent)
        await guest.resume()
        self.ledger.mark("continue_returned", self.parts.clock.now())
        self.note("mark", name="continue_sent", received=sent)
        view = await self.wait_for(guest, RUNNING_DEADLINE, lambda view: view.state is RunState.RUNNING)
        if view.state is not RunState.RUNNING:
            message = f"the target was told to run and is {view.state} ({view.raw})"
            raise HypervisorError(message)
        self.mark("target_running", self.parts.clock.now())
        return e.TargetRunning()

    async def wait_for(self, guest: Guest, deadline: float, good: Callable[[GuestView], bool]) -> GuestView:
        """Look until `good` holds or `deadline` seconds have passed; the last view is returned either way."""
        end = self.parts.clock.now() + deadline
        while True:
            view = await guest.view()
            if good(view) or self.parts.clock.now() >= end:
                return view
            await self.parts.clock.sleep(_POLL)

    # -- finishing -------------------------------------------------------------------------------------------------

    async def remove_source(self, _: e.RemoveSource) -> e.Event:
        """Read QEMU's own figures, end the stopped source."""
        vm = self.parts.vm_on(Side.SOURCE)
        view = await self.sides.look(Side.SOURCE)
        if view.state is RunState.RUNNING:
            message = f"{vm.name} runs on {self.parts.source.name} although the target owns it {await self._shown()}"
            raise LimboError(message, remedy=f"end it on {self.parts.source.name} by hand: process {view.pid}")
        guest = self.sides.guests.get(Side.SOURCE)
        if guest is not None:
            try:
                self.result = await guest.migration_result()
                await guest.quit()
            except GodwitError as error:  # a hung monitor: destroy() ends the process, with proof
                self.note("note", text=f"the source's QEMU was not asked nicely: {error.message}")
        if self.facts is not None and self.parts.spec.upgrade is None:
            # What was plugged in since the guest is known has taps, too.
            vm = replace(vm, launch=replace(vm.launch, taps=joined(vm.launch.taps, self.facts.launch.taps)))
        await self.parts.source.destroy(vm)
        return e.SourceRemoved()

    async def record_home(self, _: e.RecordHome) -> e.Event:
        """Write where the guest lives now; a source that is still in the inventory could be started again."""
        home = self.parts.vm_on(Side.TARGET)
        launch = self.facts.launch if self.facts else home.launch
        vm = replace(home, host=self.parts.target.name, launch=launch, sibling="")
        await self.parts.inventory.put_vm(vm, under=(self.parts.spec.id, self.parts.epoch))
        return e.Undone("RecordHome")
