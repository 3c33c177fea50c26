"""What every journal does, whatever it is kept in."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from stories import ARMED, FAILED, HOST, PRECOPY, VM, entry, outcome, spec, states

from godwit.core.sending import SendRecord, SendStep
from godwit.core.state import Phase, Resolution, State
from godwit.errors import BusyError, SupersededError, UnknownHostError, UnknownMigrationError, UnknownVmError
from godwit.journal.codec import dump, load
from godwit.model import (
    Comparison,
    DevicePolicy,
    DirectDevice,
    DirtyWindow,
    DiskCopy,
    FenceCommand,
    FenceProof,
    Forecast,
    HostRecord,
    ImageFacts,
    Interval,
    Launch,
    LinkSaid,
    MemorySample,
    MoveRecord,
    OutcomeStatus,
    PassRecord,
    Policy,
    ProbeRequest,
    Profile,
    Prospect,
    Redfish,
    Side,
    Tap,
    Way,
    Word,
)

if TYPE_CHECKING:
    from journalroom import Room

    from godwit.ports import Journal


async def begun(journal: Journal, identifier: str = "web1-1", vm: str = "web1", at: float = 1.0) -> int:
    await journal.create(spec(identifier, vm), at)
    return await journal.take_over(identifier)


# -- a story and its state -----------------------------------------------------------------------------------------


async def test_a_new_story_is_pending_and_has_no_outcome(room: Room) -> None:
    asked = replace(
        spec(), policy=Policy(0.05, deadline=90.0, bandwidth=1 << 40), probe=ProbeRequest("198.18.0.9", "gamma", 0.002)
    )
    await room.journal.create(asked, at=12.5)
    row, state = await room.journal.load("web1-1")
    assert (row.spec, row.created, row.phase, row.epoch, row.outcome) == (asked, 12.5, Phase.PENDING, 0, None)
    assert state == State()
    assert await room.journal.entries("web1-1") == []


async def test_a_guest_has_one_unfinished_story_at_a_time(room: Room) -> None:
    epoch = await begun(room.journal)
    with pytest.raises(BusyError, match="web1-1") as refused:
        await room.journal.create(spec("web1-2"), at=2.0)
    assert "web1-1" in refused.value.remedy
    await room.journal.create(spec("db-1", vm="db"), at=2.0)
    await room.journal.transition("web1-1", epoch, entry(), FAILED, durable=True)
    await room.journal.create(spec("web1-2"), at=3.0)
    assert [row.spec.id for row in await room.journal.rows()] == ["web1-2", "db-1", "web1-1"]


@pytest.mark.parametrize("durable", [True, False])
async def test_a_transition_is_what_load_returns(room: Room, *, durable: bool) -> None:
    epoch = await begun(room.journal)
    await room.journal.transition("web1-1", epoch, entry(5.0, event="Checked"), PRECOPY, durable=durable)
    await room.journal.flush()
    row, state = await room.journal.load("web1-1")
    assert (row.phase, state) == (Phase.PRECOPY, PRECOPY)
    (line,) = await room.journal.entries("web1-1")
    assert (line.sequence, line.at, line.kind, line.data) == (1, 5.0, "transition", {"event": "Checked"})


async def test_what_was_written_soon_comes_before_what_is_durable(room: Room) -> None:
    epoch = await begun(room.journal)
    await room.journal.transition("web1-1", epoch, entry(1.0, n=1), PRECOPY, durable=False)
    room.journal.note("web1-1", "sample", 2.0, {"n": 2})
    await room.journal.transition("web1-1", epoch, entry(3.0, n=3), ARMED, durable=True)
    # No flush: the durable one has taken everything before it along.
    lines = await room.journal.entries("web1-1")
    assert [(line.sequence, line.kind, line.data["n"]) for line in lines] == [
        (1, "transition", 1),
        (2, "sample", 2),
        (3, "transition", 3),
    ]
    assert (await room.journal.load("web1-1"))[1] == ARMED


async def test_entries_are_counted_for_each_story_and_read_from_any_point(room: Room) -> None:
    await begun(room.journal)
    await begun(room.journal, "db-1", "db")
    for n in range(6):
        room.journal.note(("web1-1", "db-1")[n % 2], "note", float(n), {"n": n})
    await room.journal.flush()
    assert [(line.sequence, line.data["n"]) for line in await room.journal.entries("web1-1")] == [
        (1, 0),
        (2, 2),
        (3, 4),
    ]
    assert [line.data["n"] for line in await room.journal.entries("db-1", after=1)] == [3, 5]
    assert await room.journal.entries("web1-1", after=3) == []


async def test_the_journal_keeps_a_copy_of_what_it_was_given(room: Room) -> None:
    await begun(room.journal)
    data: dict[str, object] = {"name": "stream_started", "eta": [1.5, 2.5], "text": "Straße\n☂", "nothing": None}
    room.journal.note("web1-1", "mark", 1.0, data)
    expected = dict(data)
    data["name"] = "changed afterwards"
    await room.journal.flush()
    (line,) = await room.journal.entries("web1-1")
    assert line.data == expected


async def test_data_that_no_journal_can_keep_is_refused_where_it_is_given(room: Room) -> None:
    await begun(room.journal)
    with pytest.raises(TypeError):
        room.journal.note("web1-1", "note", 1.0, {"bytes": b"no JSON"})
    room.journal.note("web1-1", "note", 2.0, {"n": 1})
    await room.journal.flush()
    assert [line.data for line in await room.journal.entries("web1-1")] == [{"n": 1}]


async def test_an_unknown_story_is_named(room: Room) -> None:
    for ask in (room.journal.load, room.journal.take_over):
        with pytest.raises(UnknownMigrationError, match="nope"):
            await ask("nope")
    with pytest.raises(UnknownMigrationError, match="nope"):
        await room.journal.request_cancel("nope", "me", 1.0)


# -- runners that follow each other --------------------------------------------------------------------------------


async def test_each_take_over_has_a_higher_epoch(room: Room) -> None:
    epochs = [await begun(room.journal), await room.journal.take_over("web1-1"), await room.journal.take_over("web1-1")]
    assert epochs == [1, 2, 3]
    assert (await room.journal.load("web1-1"))[0].epoch == 3


async def test_a_fenced_runner_changes_nothing_any_more(room: Room) -> None:
    old = await begun(room.journal)
    new = await room.journal.take_over("web1-1")
    with pytest.raises(SupersededError, match="web1-1"):
        await room.journal.transition("web1-1", old, entry(), ARMED, durable=True)
    with pytest.raises(SupersededError):
        await room.journal.conclude("web1-1", old, outcome())
    row, state = await room.journal.load("web1-1")
    assert (state, row.outcome) == (State(), None)
    assert await room.journal.entries("web1-1") == []
    await room.journal.transition("web1-1", new, entry(), PRECOPY, durable=True)
    assert (await room.journal.load("web1-1"))[1] == PRECOPY


async def test_a_fenced_runner_learns_it_at_the_latest_when_it_needs_something_durable(room: Room) -> None:
    old = await begun(room.journal)
    await room.journal.take_over("web1-1")
    with contextlib.suppress(SupersededError):  # may be said at once, and must be said below
        await room.journal.transition("web1-1", old, entry(), PRECOPY, durable=False)
    with pytest.raises(SupersededError):
        await room.journal.transition("web1-1", old, entry(), ARMED, durable=True)
    await room.journal.flush()
    assert (await room.journal.load("web1-1"))[1] == State()


async def test_a_fenced_runner_does_not_keep_others_from_writing(room: Room) -> None:
    old = await begun(room.journal)
    other = await begun(room.journal, "db-1", "db")
    await room.journal.take_over("web1-1")
    with pytest.raises(SupersededError):
        await room.journal.transition("web1-1", old, entry(), ARMED, durable=True)
    room.journal.note("web1-1", "note", 2.0, {"text": "what it saw is still true"})
    await room.journal.transition("db-1", other, entry(), PRECOPY, durable=True)
    await room.journal.flush()
    assert (await room.journal.load("db-1"))[1] == PRECOPY
    assert [line.kind for line in await room.journal.entries("web1-1")] == ["note"]


async def test_a_wish_to_cancel_is_found_by_whoever_runs_it(room: Room) -> None:
    await begun(room.journal)
    assert await room.journal.cancel_requested("web1-1") is None
    await room.journal.request_cancel("web1-1", "alice", 2.0)
    await room.journal.take_over("web1-1")
    assert await room.journal.cancel_requested("web1-1") == "alice"


async def test_whatever_is_written_shows_in_the_version(room: Room) -> None:
    journal = room.journal
    versions = [await journal.version()]

    async def written() -> None:
        await journal.flush()
        versions.append(await journal.version())
        assert versions[-1] not in versions[:-1]
        assert await journal.version() == versions[-1], "nobody wrote since"

    await journal.create(spec(), 1.0)
    await written()
    epoch = await journal.take_over("web1-1")
    await written()
    await journal.transition("web1-1", epoch, entry(), ARMED, durable=False)
    await written()
    journal.note("web1-1", "note", 2.0, {"text": "seen"})
    await written()
    await journal.request_cancel("web1-1", "alice", 3.0)
    await written()
    await journal.load("web1-1")
    await journal.entries("web1-1")
    assert await journal.version() == versions[-1], "reading is no writing"
    await journal.conclude("web1-1", epoch, outcome())
    await written()


async def test_what_is_written_of_one_story_does_not_show_in_the_version_of_another(room: Room) -> None:
    journal = room.journal
    await journal.create(spec(), 1.0)
    await journal.create(spec("db-1", vm="db"), 1.0)
    before = {name: await journal.version(name) for name in ("web1-1", "db-1", "nobody")}
    epoch = await journal.take_over("db-1")
    changes = [await journal.version("db-1")]
    journal.note("db-1", "note", 2.0, {"text": "seen"})
    await journal.flush()
    changes.append(await journal.version("db-1"))
    await journal.transition("db-1", epoch, entry(), FAILED, durable=True)
    changes.append(await journal.version("db-1"))
    await journal.conclude("db-1", epoch, outcome())
    changes.append(await journal.version("db-1"))
    assert len({before["db-1"], *changes}) == 5
    assert [await journal.version(name) for name in ("web1-1", "nobody")] == [before["web1-1"], before["nobody"]]


async def test_an_outcome_ends_a_story(room: Room) -> None:
    epoch = await begun(room.journal)
    await room.journal.transition("web1-1", epoch, entry(), replace(FAILED, phase=Phase.DONE), durable=True)
    await room.journal.conclude("web1-1", epoch, outcome())
    assert (await room.journal.load("web1-1"))[0].outcome == outcome()


# -- lists ---------------------------------------------------------------------------------------------------------


async def test_rows_are_listed_newest_first_up_to_a_limit(room: Room) -> None:
    for number in range(5):
        await begun(room.journal, f"vm{number}-1", f"vm{number}", at=float(number))
    assert [row.spec.vm for row in await room.journal.rows(limit=3)] == ["vm4", "vm3", "vm2"]
    assert len(await room.journal.rows()) == 5


async def test_a_story_is_unfinished_until_its_outcome_is_written(room: Room) -> None:
    """A machine that dies between the last transition and the outcome leaves work for the next runner."""
    epoch = await begun(room.journal)
    unfinished = room.journal.rows(unfinished=True)
    assert [row.spec.id for row in await unfinished] == ["web1-1"]
    await room.journal.transition("web1-1", epoch, entry(), FAILED, durable=True)
    assert [row.spec.id for row in await room.journal.rows(unfinished=True)] == ["web1-1"]
    await room.journal.conclude("web1-1", epoch, outcome())
    assert await room.journal.rows(unfinished=True) == []


async def test_limbo_stays_unfinished_although_it_has_an_outcome(room: Room) -> None:
    epoch = await begun(room.journal)
    await room.journal.transition("web1-1", epoch, entry(), State(phase=Phase.LIMBO), durable=True)
    await room.journal.conclude("web1-1", epoch, replace(outcome(), status=OutcomeStatus.LIMBO))
    assert [row.phase for row in await room.journal.rows(unfinished=True)] == [Phase.LIMBO]
    with pytest.raises(BusyError):
        await room.journal.create(spec("web1-2"), at=3.0)


# -- every field ---------------------------------------------------------------------------------------------------


@given(states)
def test_any_state_survives_being_stored(state: State) -> None:
    assert load(State, dump(state)) == state


async def test_a_state_with_every_field_set_survives_the_journal(room: Room) -> None:
    state = replace(
        ARMED,
        prepared=frozenset({"source", "target"}),
        ended=frozenset({"target"}),
        tried=ARMED.held,
        disks_uri="198.18.0.2:4445",
        copies=(DiskCopy("disk0", ImageFacts("/images/web.qcow2", "qcow2", 1 << 34, 1 << 20), "godwit-1"),),
        mirrored=True,
        postcopy=True,
        over=frozenset({"source"}),
        duties=frozenset({"Verify"}),
        cancel_requested=True,
        failure=FAILED.failure,
        media=(DiskCopy("cd0", ImageFacts("/images/seed.iso", "raw", 1 << 20, 1 << 20), "godwit-2"),),
        comparison=Comparison(equal=False, detail="offset 5", bytes=7, seconds=0.5),
        alive=False,
        leftovers=("tap0 on beta",),
        way=Way.OFF,
        launch=Launch(("qemu", "-S"), "/srv", ("/run/web1",), (Tap("tap0", "br0"),)),
        balloon=1 << 30,
        devices=(
            DirectDevice("nic1", DevicePolicy.UNPLUG, '{"id":"nic1"}', "{}", "0000:3b:02.1", "52:54:00:00:00:01", 5),
        ),
        resolution=Resolution(Side.TARGET, "anna", tried=True),
    )
    unset = {field.name for field in fields(State) if getattr(state, field.name) == getattr(State(), field.name)}
    assert unset == {"owner"}
    epoch = await begun(room.journal)
    await room.journal.transition("web1-1", epoch, entry(), state, durable=True)
    assert (await room.journal.load("web1-1"))[1] == state


# -- the inventory -------------------------------------------------------------------------------------------------


async def test_hosts_are_kept_replaced_and_forgotten(room: Room) -> None:
    assert await room.inventory.hosts() == []
    await room.inventory.put_host(replace(HOST, name="beta"))
    await room.inventory.put_host(HOST)
    assert [host.name for host in await room.inventory.hosts()] == ["alpha", "beta"]
    await room.inventory.put_host(replace(HOST, url="local"))
    assert (await room.inventory.host("alpha")).url == "local"
    await room.inventory.remove_host("alpha")
    with pytest.raises(UnknownHostError, match="'alpha'; known: beta"):
        await room.inventory.host("alpha")
    with pytest.raises(UnknownHostError):
        await room.inventory.remove_host("alpha")


async def test_guests_are_kept_replaced_and_forgotten(room: Room) -> None:
    with pytest.raises(UnknownVmError, match="known: none"):
        await room.inventory.vm("web1")
    await room.inventory.put_vm(VM)
    assert await room.inventory.vm("web1") == VM
    await room.inventory.put_vm(replace(VM, host="beta"))
    assert [(vm.name, vm.host) for vm in await room.inventory.vms()] == [("web1", "beta")]
    await room.inventory.remove_vm("web1")
    assert await room.inventory.vms() == []
    with pytest.raises(UnknownVmError):
        await room.inventory.remove_vm("web1")


async def test_guests_on_their_way_are_kept_replaced_and_forgotten(room: Room) -> None:
    record = SendRecord(
        "web1-1", "web1", "tag", "one", "two", SendStep.SAVING, VM.launch, running=True, made=True, files=("/a b",)
    )
    assert await room.inventory.sends() == []
    await room.inventory.put_send(record)
    await room.inventory.put_send(replace(record, step=SendStep.ARMED))
    assert await room.inventory.sends() == [replace(record, step=SendStep.ARMED)]
    await room.inventory.remove_send("web1")
    await room.inventory.remove_send("web1")
    assert await room.inventory.sends() == []


# -- what was measured ---------------------------------------------------------------------------------------------


async def test_profiles_are_listed_for_each_guest_the_newest_first(room: Room) -> None:
    profiles = [Profile("web1", "one", at, 1 << 28, (DirtyWindow(0.05, 4096),)) for at in (3.0, 9.0, 5.0)]
    profiles[1] = replace(profiles[1], sample=MemorySample(4096, 3000, 10, 0.25, None, 0.2))
    for one in (*profiles, replace(profiles[0], vm="db1", at=100.0)):
        await room.journal.history.put_profile(one)
    found = await room.journal.history.profiles("web1")
    assert found == [profiles[1], profiles[2], profiles[0]]
    assert await room.journal.history.profiles("web1", limit=1) == [profiles[1]]
    assert await room.journal.history.profiles("nobody") == []


async def test_a_move_that_is_remembered_again_replaces_what_was_remembered(room: Room) -> None:
    interval = Interval(1.0, 2.0, 3.0)
    row = Prospect("xbzrle", True, interval, interval, interval, interval, 3, "why")  # noqa: FBT003 - the field
    forecast = Forecast(
        "web1", "one", "two", 4.0, interval, (row,), "xbzrle", "because", "so it stands", ("what is known",)
    )
    passes = (PassRecord(100, 90, 1.5, 10),)
    record = MoveRecord("web1-1", "web1", "one", "two", 5.0, 100, passes, 0.9, 2.4, 95, forecast=forecast)
    other = replace(record, id="db1-1", vm="db1", at=7.0, client_gap=0.05, limited=True)
    for one in (replace(record, total=9.0), other, record):
        await room.journal.history.put_move(one)
    assert await room.journal.history.moves() == [other, record]
    assert await room.journal.history.moves(limit=1) == [other]


async def test_a_guest_is_forgotten_and_no_other_and_no_link(room: Room) -> None:
    history = room.journal.history
    said = LinkSaid(("one", "two"), 5e6, 1.0)
    await history.put_link(said)
    for vm in ("web1", "db1"):
        await history.put_profile(Profile(vm, "one", 3.0, 1 << 28, (DirtyWindow(0.05, 4096),)))
        await history.put_move(MoveRecord(f"{vm}-1", vm, "one", "two", 5.0, 100, (), 0.9, 2.4, 95))
    for _ in range(2):
        await history.forget("web1")
        assert await history.profiles("web1") == []
        assert len(await history.profiles("db1")) == 1
        assert [move.vm for move in await history.moves()] == ["db1"]
        assert await history.link("one", "two") == said


def test_a_move_that_an_earlier_godwit_remembered_is_read() -> None:
    newest = MoveRecord("web1-1", "web1", "one", "two", 5.0, 100, (), 0.9, 2.4, 95, carried=5e6)
    assert load(MoveRecord, dump(newest)) == newest
    assert load(MoveRecord, dump(newest).replace(',"carried":5000000.0', "")) == replace(newest, carried=None)


async def test_what_was_said_of_a_link_is_kept_until_something_else_is_said(room: Room) -> None:
    history = room.journal.history
    assert await history.link("one", "two") is None
    await history.put_link(LinkSaid(("two", "one"), 5e6, 1.0))
    newest = LinkSaid(("one", "two"), 7e6, 2.0)
    await history.put_link(newest)
    assert await history.link("one", "two") == await history.link("two", "one") == newest
    assert await history.link("one", "three") is None


# -- what persons decided, and what was proven of hosts ----------------------------------------------------------------


async def test_a_word_is_taken_once(room: Room) -> None:
    decisions = room.journal.decisions
    assert await decisions.take_word("web1-1") is None
    await decisions.put_word("web1-1", Word(Side.SOURCE, "anna", 1.0))
    before = await room.journal.version()
    await decisions.put_word("web1-1", Word(Side.TARGET, "berta", 2.0))
    assert await room.journal.version() != before
    assert await decisions.take_word("web1-2") is None
    assert await decisions.take_word("web1-1") == Word(Side.TARGET, "berta", 2.0)
    assert await decisions.take_word("web1-1") is None


async def test_a_proof_is_kept_until_it_is_dropped(room: Room) -> None:
    decisions = room.journal.decisions
    assert await decisions.proof("alpha") is None
    proof = FenceProof("alpha", 2.5, "the device says Off", "anna")
    await decisions.put_proof(FenceProof("alpha", 1.0, "earlier"))
    await decisions.put_proof(proof)
    assert await decisions.proof("alpha") == proof
    assert await decisions.proof("beta") is None
    await decisions.drop_proof("alpha")
    await decisions.drop_proof("alpha")
    assert await decisions.proof("alpha") is None


@pytest.mark.parametrize(
    "device",
    [
        FenceCommand(("ipmitool", "-H", "{host}-bmc", "power", "off"), ("check-off", "{host}")),
        Redfish("https://bmc", "admin", password_variable="BMC_PASSWORD", system="1", insecure=True),  # noqa: S106
        None,
    ],
)
async def test_what_cuts_a_host_s_power_is_kept_with_it(room: Room, device: FenceCommand | Redfish | None) -> None:
    record = replace(HOST, fence=device, fence_automatic=device is not None)
    await room.inventory.put_host(record)
    assert await room.inventory.host(HOST.name) == record


def test_a_host_that_an_earlier_version_wrote_down_has_nothing_that_cuts_its_power() -> None:
    text = dump(HOST)
    for name in ("fence", "fence_automatic"):
        assert f'"{name}"' in text
    old = text[: text.index(',"fence"')] + "}"
    assert load(HostRecord, old) == HOST
