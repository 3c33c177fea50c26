"""Encrypted moves: strangers who come first, keys that are missing, ends that do not fit, and what is left of keys."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from stage import DISK, LONG, Stage, simulate, stage

from godwit.core.learning import PAYLOAD
from godwit.core.state import Held, Phase
from godwit.core.trust import AUTHORITY_LIFE, DAY, MOVE_LIFE
from godwit.errors import HostError
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.model import LinkSaid, OutcomeStatus, Permission, Policy, Way
from godwit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.core.state import State
    from godwit.hosts.fake import FakeHost
    from godwit.model import Credentials, Outcome, Pair

COMPLETED, FAILED, CANCELLED = OutcomeStatus.COMPLETED, OutcomeStatus.FAILED, OutcomeStatus.CANCELLED
REFUSED = OutcomeStatus.REFUSED
PLAIN = Policy(plaintext=True)
ISO = "/images/seed.iso"


def apart(policy: Policy | None = None, **options: object) -> Stage:
    """Two hosts that share nothing; the disk is on the first, and so is a file that the guest only reads."""
    made = stage(policy=policy, **options)  # type: ignore[arg-type]
    made.world._files.clear()
    made.world.disks.newest.clear()
    made.world.add_file(DISK, ["one"], size=1 << 30)
    made.world.add_file(ISO, ["one"], size=512 * MIB, content="seed")
    made.world.read_only.add(ISO)
    qemu = made.one.qemus["web"]
    qemu.launch = replace(qemu.launch, argv=(*qemu.launch.argv, "-cdrom", ISO))
    return made


def moved(make: Callable[[], Stage], prepare: Callable[[Stage], object] = lambda _: None) -> tuple[Stage, Outcome]:
    async def scenario() -> tuple[Stage, Outcome]:
        made = make()
        prepare(made)
        outcome = await made.move()
        await made.assert_settled(outcome)
        return made, outcome

    return simulate(scenario)


def opens_its_port_to_strangers(scene: Stage) -> None:
    scene.world.strangers |= {"one", "two"}


# -- the send queue ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "said", "expected"),
    [
        (Policy(), None, 64 * KIB),
        (Policy(), 30e6, round(30e6 * PAYLOAD * 0.005)),
        (Policy(), 1.25e9, 256 * KIB),
        (Policy(bandwidth=20_000_000), 1.25e9, 100_000),
        (Policy(way=Way.STATIC), 1.25e9, 256 * KIB),
        (PLAIN, 1.25e9, 64 * KIB),
    ],
)
def test_the_send_queue_of_an_encrypted_stream_is_as_long_as_its_link_is_fast(
    policy: Policy, said: float | None, expected: int
) -> None:
    leased: list[int] = []

    async def scenario() -> None:
        scene = stage(policy=policy)
        if said is not None:
            await scene.journal.history.put_link(LinkSaid(("one", "two"), said, 0.0))
        shorten = scene.one.shorten_send_queue

        async def watched(lease: str, size: int) -> bool:
            leased.append(size)
            return await shorten(lease, size)

        scene.one.shorten_send_queue = watched  # type: ignore[method-assign]
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED

    simulate(scenario)
    assert leased == [expected]


# -- strangers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [stage, lambda: apart(Policy(verify_disks=True))], ids=["shared", "with its disk"])
def test_a_stranger_who_comes_first_gets_nothing_and_is_in_nobodys_way(make: Callable[[], Stage]) -> None:
    scene, outcome = moved(make, opens_its_port_to_strangers)

    assert outcome.status is COMPLETED
    assert outcome.encrypted is True
    assert scene.world.intrusions == []
    assert "unencrypted" not in [finding.code for finding in outcome.findings]


def test_in_the_clear_a_stranger_is_believed_and_that_was_said() -> None:
    scene, outcome = moved(lambda: stage(policy=PLAIN), opens_its_port_to_strangers)

    assert outcome.status is FAILED
    assert outcome.encrypted is False
    assert scene.world.intrusions == ["a stranger had the memory of web on two"]
    assert [finding.code for finding in outcome.findings] == ["unencrypted"]


def test_in_the_clear_disks_and_files_are_anybodys() -> None:
    scene, _ = moved(lambda: apart(PLAIN), opens_its_port_to_strangers)

    assert [words.split(" of ")[0] for words in scene.world.intrusions][:2] == [
        f"a stranger had {ISO} on two",
        "a stranger had the disks",
    ]


def test_without_strangers_a_plain_move_ends_as_ever_and_holds_no_keys() -> None:
    scene, outcome = moved(lambda: stage(policy=PLAIN))

    assert outcome.status is COMPLETED
    assert not any(Held.CREDENTIALS in state.held for state in scene.journal.states)
    assert scene.authority.authority is None


# -- ends that do not fit ------------------------------------------------------------------------------------------


class Confused(FakeAuthority):
    """Certifies what a test makes of it."""

    def __init__(self, *args: object, change: Callable[[Pair], Pair]) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.change = change

    async def pair(self, owner: str, host: str, address: str) -> Pair:
        return self.change(await super().pair(owner, host, address))


def said_of(credentials: Credentials, old: str, new: str) -> Credentials:
    assert old in credentials.certificate
    return replace(credentials, certificate=credentials.certificate.replace(old, new))


MISFITS: dict[str, Callable[[Pair], Pair]] = {
    "another's certificate": lambda pair: replace(pair, client=said_of(pair.client, "CN=web", "CN=db")),
    "another's address": lambda pair: replace(pair, server=said_of(pair.server, "198.18.0.2", "198.18.0.7")),
    "a foreign authority": lambda pair: replace(pair, client=replace(pair.client, authorities='["foreign"]')),
    "a foreign client": lambda pair: replace(pair, client=said_of(pair.client, '"issuer": "Godwit', '"issuer": "Evil')),
}


@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS.keys())
@pytest.mark.parametrize("make", [stage, apart], ids=["shared", "with its disk"])
def test_ends_that_do_not_fit_send_nothing_and_the_guest_runs_on(
    make: Callable[[], Stage], change: Callable[[Pair], Pair]
) -> None:
    def confuse(scene: Stage) -> None:
        scene.authority = Confused(scene.world.clock, change=change)

    scene, outcome = moved(make, confuse)

    assert outcome.status is FAILED
    assert outcome.bytes == 0
    assert scene.world.executing("web") == ["one"]


async def assert_it_fails(scene: Stage, words: str) -> None:
    """Move; the guest stays, for the reason that these words name, and nothing is left."""
    outcome = await scene.move()
    await scene.assert_settled(outcome)
    assert outcome.status is FAILED
    assert words in outcome.error


def test_a_source_that_speaks_plainly_is_refused_by_a_target_that_does_not() -> None:
    async def scenario() -> None:
        scene = stage()

        def forget() -> None:
            scene.one.qemus["web"].tls.forget()

        scene.at(Phase.PRECOPY, forget)
        await assert_it_fails(scene, "TLS handshake failed")

    simulate(scenario)


@pytest.mark.parametrize("name", ["one", "two"])
def test_keys_that_vanish_from_a_host_before_they_are_read_end_the_move(name: str) -> None:
    async def scenario() -> None:
        scene = stage()
        host = scene.world.hosts[name]
        put = host.put_credentials

        async def lost(owner: str, role: str, credentials: Credentials, pid: int | None = None) -> str:
            folder = await put(owner, role, credentials, pid)
            host.credentials.clear()
            return folder

        host.put_credentials = lost  # type: ignore[method-assign]
        await assert_it_fails(scene, "Unable to access credentials")

    simulate(scenario)


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_host_without_room_for_keys_ends_the_move_by_name(name: str) -> None:
    scene, outcome = moved(stage, lambda scene: scene.at(Phase.PREPARING, lambda: scene.world.full.add(name)))

    assert outcome.status is FAILED
    assert "cannot keep the keys" in outcome.error
    assert name in outcome.error
    assert scene.world.executing("web") == ["one"]


# -- preflight -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_qemu_that_cannot_encrypt_is_found_before_anything_is_changed(name: str) -> None:
    def lacks(scene: Stage) -> None:
        scene.world.hosts[name].has_tls = False

    _, outcome = moved(stage, lacks)
    _, plain = moved(lambda: stage(policy=PLAIN), lacks)

    assert outcome.status is REFUSED
    assert "--plaintext" in outcome.remedy
    assert plain.status is COMPLETED


def test_an_expired_authority_blocks_with_the_mend_and_one_that_ends_soon_warns() -> None:
    def ends(seconds: float) -> Callable[[Stage], None]:
        def end(scene: Stage) -> None:
            facts = scene.authority._facts("old", (), 0.0)
            now = scene.world.clock.now()
            scene.authority.authority = replace(facts, valid_from=now - AUTHORITY_LIFE, valid_until=now + seconds)

        return end

    _, over = moved(stage, ends(-1.0))
    _, soon = moved(stage, ends(5 * DAY))

    assert (over.status, over.remedy.split(";")[0]) == (REFUSED, "godwit tls rotate")
    assert soon.status is COMPLETED
    assert [finding.code for finding in soon.findings] == ["authority-ends"]


@pytest.mark.parametrize(("offset", "fits"), [(-DAY - 1, False), (-DAY + 60, True), (MOVE_LIFE + 1, False)])
def test_a_clock_by_which_nothing_holds_is_named(offset: float, *, fits: bool) -> None:
    scene, outcome = moved(lambda: stage(clock_offset=offset))

    assert (outcome.status is COMPLETED) is fits
    assert ("clock-forbids" in [finding.code for finding in outcome.findings]) is not fits
    assert scene.two.credentials == {}


# -- while it is under way -----------------------------------------------------------------------------------------


def test_a_new_authority_does_not_disturb_a_move_under_way() -> None:
    async def scenario() -> None:
        scene = apart(Policy(verify_disks=True))
        done = False

        async def rotate(_: object) -> None:
            nonlocal done
            if scene.journal.states[-1].phase is Phase.MIRRORING and not done:
                done = True
                await scene.authority.rotate()

        scene.journal.after = rotate
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert done
        assert outcome.status is COMPLETED

    simulate(scenario)


class Counting(FakeAuthority):
    """Takes down for whom it certifies."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.asked: list[str] = []

    async def pair(self, owner: str, host: str, address: str) -> Pair:
        self.asked.append(owner)
        return await super().pair(owner, host, address)


PHASES = [Phase.PREPARING, Phase.MIRRORING, Phase.PRECOPY, Phase.SWITCHOVER, Phase.COMMITTING, Phase.FINISHING]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("make", [stage, lambda: apart(Policy(verify_disks=True))], ids=["shared", "with its disk"])
def test_a_new_authority_is_no_matter_to_a_runner_that_takes_a_move_over(
    make: Callable[[], Stage], phase: Phase
) -> None:
    """It goes on with the keys that are there, or back without any, as it would have: it asks for none."""

    async def scenario(*, rotated: bool) -> OutcomeStatus:
        scene = make()
        scene.authority = authority = Counting(scene.world.clock)

        async def die(state: State) -> None:
            if state.phase is phase and scene.runners == 1:
                if rotated:
                    await authority.rotate()
                await scene.die()

        scene.journal.after = die
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert authority.asked.count(scene.spec.id) <= 1, "both ends have what one asking gave"
        assert outcome.comparison is None or outcome.comparison.equal, outcome.comparison
        return outcome.status

    ends = [simulate(partial(scenario, rotated=rotated)) for rotated in (False, True)]
    assert ends[0] is ends[1]
    if phase in {Phase.PREPARING, Phase.COMMITTING, Phase.FINISHING}:
        assert ends[0] is (FAILED if phase is Phase.PREPARING else COMPLETED)


def test_a_broken_postcopy_is_mended_encrypted() -> None:
    async def scenario() -> None:
        policy = Policy(allows=frozenset({Permission.POSTCOPY}), max_downtime=0.01)
        scene = stage(replace(LONG, dirty_rate=200e6, hot_set=300 * MIB), policy=policy)

        def cut() -> None:
            scene.world.cut("one", "two")
            scene.world.strangers |= {"one", "two"}

        scene.at(Phase.POSTCOPY, cut, delay=0.5)

        async def heal() -> None:
            await scene.world.clock.sleep(60.0)
            scene.world.heal("one", "two")

        healing = asyncio.create_task(heal())
        outcome = await scene.move()
        await healing
        await scene.assert_settled(outcome)
        lines = await scene.journal.entries(scene.spec.id)
        assert "StreamMended" in [line.data.get("event") for line in lines]
        assert outcome.status is COMPLETED
        assert scene.world.intrusions == []

    simulate(scenario)


def test_a_target_that_falls_silent_keeps_keys_and_that_is_said() -> None:
    async def scenario() -> None:
        scene = stage(LONG)
        scene.at(Phase.PRECOPY, lambda: scene.world.cut("two"), delay=1.0)
        moving = asyncio.create_task(scene.move())
        await asyncio.sleep(3.0)
        scene.cancel()
        outcome = await moving
        assert outcome.status is CANCELLED
        assert scene.one.credentials == {}
        assert any("keys of web-1 may be left on two" in words for words in outcome.leftovers)
        assert scene.two.credentials != {}
        scene.world.heal("two")
        again = scene.turned(2).turned(3)
        outcome = await again.move()
        assert outcome.status is COMPLETED
        await again.assert_settled(outcome)  # with these keys went those of before

    simulate(scenario)


def cannot_remove(host: FakeHost) -> Callable[[], None]:
    """Let a host keep all keys that it has; returns what ends that."""
    ways = (host.remove_credentials, host.end_transfer)

    async def stays(owner: str) -> None:
        raise HostError(f"the keys of {owner} are left: Read-only file system")

    def mended() -> None:
        host.remove_credentials, host.end_transfer = ways  # type: ignore[method-assign]

    host.remove_credentials = host.end_transfer = stays  # type: ignore[method-assign]
    return mended


def falls_silent(host: FakeHost) -> Callable[[], None]:
    """Let nothing be heard of a host; returns what ends that."""
    host.world.cut(host.name)
    return lambda: host.world.heal(host.name)


@pytest.mark.parametrize(("name", "trouble"), [("one", cannot_remove), ("two", cannot_remove), ("two", falls_silent)])
def test_keys_of_a_file_that_stay_on_a_host_are_named_and_go_with_the_next_move(
    name: str, trouble: Callable[[FakeHost], Callable[[], None]]
) -> None:
    async def scenario() -> None:
        scene = apart()
        scene.world.shape("one", "two", MIB)
        moving = asyncio.create_task(scene.move())
        while not scene.one.sends:  # noqa: ASYNC110 - not everything that a host does is an event
            await asyncio.sleep(0.01)
        assert [len(host.credentials) for host in (scene.one, scene.two)] == [1, 1]
        mended = trouble(scene.world.hosts[name])
        scene.cancel()
        outcome = await moving
        assert outcome.status is CANCELLED
        assert any(f"keys of web-1 may be left on {name}" in words for words in outcome.leftovers), outcome
        left = {host.name for host in (scene.one, scene.two) if host.credentials}
        assert left == {name}
        mended()
        await scene.two.remove_image(ISO, scene.spec.id)  # half of it may be left, too
        scene.world.shape("one", "two", 100 * MIB)
        again = scene.turned(2).turned(3)
        outcome = await again.move()
        assert outcome.status is COMPLETED
        await again.assert_settled(outcome)

    simulate(scenario)


def test_keys_of_another_godwit_for_a_guest_of_the_same_name_are_let_alone() -> None:
    async def scenario() -> None:
        scene = apart(Policy(verify_disks=True))
        theirs = (await FakeAuthority(scene.world.clock, name="Theirs").pair("web-7", "two", "198.18.0.2")).server
        former = ("web.godwit", "web.godwit.0123456789ab")
        for host in (scene.one, scene.two):
            for owner in ("web.theirs", "web.theirs.0123456789ab", *former):
                host.credentials[owner, "server"] = theirs
        outcome = await scene.move()
        assert outcome.status is COMPLETED
        for host in (scene.one, scene.two):
            assert {owner for owner, _ in host.credentials} == {"web.theirs", "web.theirs.0123456789ab"}
            assert host.credentials["web.theirs", "server"] == theirs
            host.credentials.clear()
        await scene.assert_settled(outcome)

    simulate(scenario)


# -- listening -----------------------------------------------------------------------------------------------------


def test_a_target_listens_for_the_stream_only_when_the_disks_are_there() -> None:
    async def scenario() -> None:
        scene = apart()
        open_while_copying: list[int | None] = []

        async def look(_: object) -> None:
            if scene.journal.states[-1].phase is Phase.MIRRORING:
                open_while_copying.append(scene.two.qemus["web"].port)

        scene.journal.after = look
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert open_while_copying
        assert set(open_while_copying) == {None}
        assert all(qemu.port is None and qemu.blocks.disks_port is None for qemu in scene.two.qemus.values())

    simulate(scenario)
