"""Commands for what is unfinished: recover, resolve, host fence, host fencing; and status of a guest in limbo."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from clistage import Stage, ends

from godwit.cli import ground
from godwit.cli.main import main
from godwit.core.saves import Job, Work
from godwit.core.state import Door, Failure, Held, Phase, State
from godwit.errors import FenceError
from godwit.identifiers import new_job_identifier
from godwit.model import FenceCommand, Outcome, OutcomeStatus, Owner, RunState, Spec
from godwit.ports import Entry, Power, Signs

if TYPE_CHECKING:
    from pathlib import Path

    from clistage import Act

    from godwit.model import HostRecord
    from godwit.service import Service

ID = "web1-limbo"
SAVE = new_job_identifier("web1", Work.SAVE)
LIMBO = State(
    Phase.LIMBO,
    Owner.UNKNOWN,
    Door.SENT,
    frozenset({Held.STREAM, Held.TARGET, Held.SOURCE_STOPPED}),
    failure=Failure("limbo", "a host is silent", "look at both"),
)


class Device:
    """Cuts the power of simulated hosts."""

    def __init__(self, stage: Stage, *, works: bool = True) -> None:
        self.stage, self.works = stage, works
        self.cuts: list[str] = []

    async def power(self, record: HostRecord) -> Power:
        crashed = self.stage.world.hosts[record.name].crashed
        return Power(crashed, f"the device says {'Off' if crashed else 'On'}")

    async def cut(self, record: HostRecord) -> Power:
        self.cuts.append(record.name)
        if not self.works:
            raise FenceError("the device is gone", remedy="see to its power by hand")
        self.stage.world.crash_host(record.name)
        return await self.power(record)


class Life:
    """A runner as it is seen from outside: it works, is stopped, or hangs."""

    def __init__(self, stage: Stage, signs: list[Signs]) -> None:
        self.stage, self.seen = stage, signs
        self.ended: list[str] = []

    def signs(self, identifier: str, vm: str) -> Signs:
        assert (identifier, vm) == (ID, "web1")
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    def end(self, identifier: str, vm: str) -> tuple[int, ...]:
        self.ended.append(identifier)
        self.stage.runners.tasks.pop(vm).cancel()
        return self.seen[-1].pids


async def written_down(stage: Stage) -> None:
    journal, now = stage.journal, stage.world.clock.now()
    await journal.create(Spec(ID, "web1", "host1", "host2"), now - 100)
    epoch = await journal.take_over(ID)
    data: dict[str, object] = {"event": "SourceStopped", "detail": {}, "phase": "switchover", "commands": []}
    await journal.transition(
        ID, epoch, Entry(0, now - 90, "transition", data), replace(LIMBO, phase=Phase.SWITCHOVER), durable=True
    )
    view: dict[str, object] = {"state": "unreachable", "stream": "none"}
    data = {"event": "Observed", "detail": {"source": {"state": "running"}, "target": view}, "phase": "limbo"}
    await journal.transition(ID, epoch, Entry(0, now - 30, "transition", data), LIMBO, durable=True)
    outcome = Outcome(ID, "web1", "host1", "host2", OutcomeStatus.LIMBO, Owner.UNKNOWN, 70.0, error="a host is silent")
    await journal.conclude(ID, epoch, outcome)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Return a guest that runs on its source again, behind a door that was armed; the target's host is silent."""
    made = Stage(speed=200)
    made.world.hosts["host2"].cut_off = True
    asyncio.run(written_down(made))
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(list(words))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return status, captured.out, captured.err


def fenceable(stage: Stage, *, works: bool = True) -> Device:
    device = Device(stage, works=works)
    stage.service = replace(stage.service, fencer=device)
    stage.runners.service = stage.service

    async def furnish() -> None:
        record = await stage.inventory.host("host2")
        await stage.inventory.put_host(replace(record, fence=FenceCommand(("off",), ("status",))))

    asyncio.run(furnish())
    return device


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# -- recover -------------------------------------------------------------------------------------------------------


def test_nothing_is_unfinished(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ground, "opener", Stage().opened)
    assert typed(capsys, "recover") == (0, "nothing is unfinished\n", "")
    status, _, err = typed(capsys, "recover", "nope")
    assert status == 2
    assert "there is no migration 'nope'" in err


def test_limbo_is_told_with_its_evidence_and_each_choice(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    fenceable(stage)
    status, out, _ = typed(capsys, "recover")
    assert status == 9
    for words in (
        "web1-limbo: web1, host1 to host2, limbo; looking at both hosts",
        "nobody can know who owns web1",
        "on host1  running, process 1002 (source; so since ",
        "on host2  unreachable: ",
        "the source has stopped the guest",
        f"log/{ID}.log; the whole story: godwit show {ID}",
        f"type: godwit recover {ID} --fence --yes",
        "risk: every guest on host2 dies",
        "not now: the guest runs on the source: end that copy first (process 1002)",
        f"type: godwit resolve {ID} --owner source --i-have-checked",
    ):
        assert words in out, out
    assert stage.world.executing("web1") == ["host1"]


def test_limbo_as_json(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = typed(capsys, "recover", "web1", "--json")
    assert status == 9
    told = objects(out)[-1]
    assert (told["id"], told["kind"]) == (ID, "limbo")
    assert told["evidence"]["sides"]["source"]["view"]["state"] == "running"
    assert [choice["command"] for choice in told["evidence"]["choices"] if not choice["refused"]] == [
        f"godwit recover {ID}",
        f"godwit resolve {ID} --owner source --i-have-checked",
    ]
    del stage


def test_status_shows_the_same(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = typed(capsys, "status", ID)
    assert status == 0
    assert "what can be done" in out
    assert f"godwit resolve {ID} --owner source --i-have-checked" in out
    status, out, _ = typed(capsys, "status", ID, "--json")
    assert "choices" in objects(out)[-1]["evidence"]
    del stage


def test_a_host_that_is_back_settles_it(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.world.hosts["host2"].cut_off = False
    status, out, _ = typed(capsys, "recover", ID)
    assert status == 0
    assert "web1 stays on host1" in out
    assert stage.world.executing("web1") == ["host1"]
    status, out, _ = typed(capsys, "recover", ID)
    assert (status, "web1 stays on host1" in out) == (0, True)


def test_a_guest_that_is_gone_is_settled_and_told_by_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Stage(ends(OutcomeStatus.GUEST_CRASHED))
    asyncio.run(written_down(made))
    monkeypatch.setattr(ground, "opener", made.opened)
    status, out, _ = typed(capsys, "recover")
    assert status == 10
    assert "web1 ran on host2 and is gone there" in out


def test_fencing_needs_a_word_about_what_dies(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    device = fenceable(stage)
    status, _, err = typed(capsys, "recover", ID, "--fence")
    assert status == 3
    assert "cutting the power of host2 ends whatever runs there: web1 may be on it: web1-limbo is limbo" in err
    assert "--yes" in err
    assert device.cuts == []
    status, out, err = typed(capsys, "recover", ID, "--fence", "--yes")
    assert status == 0
    assert device.cuts == ["host2"]
    assert "host2 is proven to be off: the device says Off" in out
    assert "warning: web1 may be on it" in err
    assert "web1 stays on host1" in out
    assert stage.world.executing("web1") == ["host1"]


def test_a_device_that_fails_settles_nothing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    fenceable(stage, works=False)
    status, _, err = typed(capsys, "recover", ID, "--fence", "--yes")
    assert status == 5
    assert "the device is gone" in err
    assert stage.rows()[0]["phase"] == "limbo"


def test_only_a_silent_host_is_fenced(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    device = fenceable(stage)
    stage.world.hosts["host2"].cut_off = False
    status, out, _ = typed(capsys, "recover", ID, "--fence", "--yes")
    assert status == 0
    assert "no host of it is silent" in out
    assert device.cuts == []


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--fence"], "--fence needs the migration"), ([ID, "--yes"], "--yes means nothing without --fence")],
)
def test_options_that_mean_nothing_are_refused(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    status, _, err = typed(capsys, "recover", *words)
    assert status == 2
    assert said in err
    del stage


# -- runners that are there ----------------------------------------------------------------------------------------

WORKS = [Signs((41, 42), turns=1), Signs((41, 42), turns=2)]
STOPPED = [Signs((41, 42), stopped=True, turns=1)]
HANGS = [Signs((41, 42), turns=1)]


async def _for_ever(_: Service, __: str) -> None:
    await asyncio.Event().wait()


def with_runner(stage: Stage, signs: list[Signs], does: Act = _for_ever) -> Life:
    """Let a runner hold the guest, which is seen as `signs` have it."""
    life = Life(stage, signs)
    stage.service = replace(stage.service, life=life)
    act, stage.runners.act = stage.runners.act, does
    opened = stage.opened

    @asynccontextmanager
    async def held(*asked: Any, **how: Any) -> Any:  # noqa: ANN401 - as `ground.opener` has it
        async with opened(*asked, **how) as service:
            if not stage.runners.started:
                stage.runners.service = service
                stage.runners.start(ID, "web1")
                stage.runners.act = act
            yield service

    ground.opener = held
    return life


@pytest.mark.parametrize(("signs", "words"), [(STOPPED, "is stopped (process 42)"), (HANGS, "hangs (process 42)")])
def test_a_runner_that_does_nothing_is_named(
    stage: Stage, capsys: pytest.CaptureFixture[str], signs: list[Signs], words: str
) -> None:
    life = with_runner(stage, list(signs))
    status, _, err = typed(capsys, "recover", ID)
    assert status == 4
    assert words in err
    assert f"mend: godwit recover {ID} --take-over ends it, and goes on" in err
    assert life.ended == []


def test_a_runner_that_does_nothing_is_ended_and_followed_by_another(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.world.hosts["host2"].cut_off = False
    life = with_runner(stage, list(STOPPED))
    status, out, _ = typed(capsys, "recover", ID, "--take-over")
    assert life.ended == [ID]
    assert status == 0
    assert "web1 stays on host1" in out


def test_a_runner_that_works_is_left_alone(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    async def settled(service: Service, identifier: str) -> None:
        await asyncio.sleep(2.5)
        await ends(OutcomeStatus.COMPLETED)(service, identifier)

    life = with_runner(stage, list(WORKS), settled)
    status, out, _ = typed(capsys, "recover", ID, "--take-over")
    assert life.ended == []
    assert status == 0
    assert "a runner works on it" in out
    assert "web1 moved from host1 to host2" in out


# -- resolve -------------------------------------------------------------------------------------------------------


def test_a_person_decides(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = typed(capsys, "resolve", ID, "--owner", "source", "--i-have-checked")
    assert status == 0
    assert "web1 stays on host1" in out
    assert "decided that the guest is the source's" in out
    assert stage.world.executing("web1") == ["host1"]
    assert stage.rows()[0]["phase"] == "failed"


def test_nobody_is_obeyed_who_has_not_looked(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = typed(capsys, "resolve", "web1", "--owner", "source")
    assert status == 3
    assert "on host1  running" in out
    assert "nobody said that they have looked at both hosts" in err
    assert "--i-have-checked" in err
    assert stage.rows()[0]["phase"] == "limbo"
    assert stage.runners.started == []


def test_a_word_against_the_evidence_is_refused(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = typed(capsys, "resolve", ID, "--owner", "target", "--i-have-checked")
    assert status == 3
    assert "web1 cannot be given to host2: the guest runs on the source: end that copy first (process 1002)" in err
    assert stage.rows()[0]["phase"] == "limbo"


def test_only_limbo_can_be_resolved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    assert main(["migrate", "web1", "host2"]) == 0
    capsys.readouterr()
    for more in ([], ["--i-have-checked"]):
        status, _, err = typed(capsys, "resolve", "web1", "--owner", "target", *more)
        assert status == 2
        assert "is not in limbo: it is done" in err


def test_who_owns_it_must_be_said(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["resolve", ID], ["resolve", ID, "--owner", "host1"]):
        status, _, err = typed(capsys, *words)
        assert status == 2
        assert "--owner" in err
    del stage


# -- other work that is unfinished -----------------------------------------------------------------------------------


def test_a_save_that_nobody_works_on_is_taken_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Stage(speed=50)

    async def begun_and_left() -> None:
        at = made.world.clock.now() - 60
        await made.journal.jobs.create(Job(SAVE, Work.SAVE, "web1", "host1", "/saves/web1", at))

    asyncio.run(begun_and_left())
    monkeypatch.setattr(ground, "opener", made.opened)
    status, out, _ = typed(capsys, "recover")
    assert status == 0
    assert "web1" in out
    assert asyncio.run(made.journal.jobs.load(SAVE)).finished


# -- host fence, host fencing --------------------------------------------------------------------------------------


@pytest.fixture
def plain_stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


def test_what_cuts_a_host_s_power_is_kept_shown_and_forgotten(
    plain_stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--off-command",
        "ipmitool -H {host}-bmc power off",
        "--status-command",
        "is-off '{host} x'",
        "--automatic",
    ]
    status, out, _ = typed(capsys, "host", "fencing", "host2", *words)
    assert status == 0
    assert "off: ipmitool -H '{host}-bmc' power off" in out
    assert "godwit host fence host2 --status" in out
    record = asyncio.run(plain_stage.inventory.host("host2"))
    assert record.fence == FenceCommand(("ipmitool", "-H", "{host}-bmc", "power", "off"), ("is-off", "{host} x"))
    assert record.fence_automatic
    status, out, _ = typed(capsys, "host", "show", "host2")
    assert "its power is cut without asking" in out
    status, out, _ = typed(capsys, "host", "fencing", "host2", "--none")
    assert "nothing is known that cuts its power" in out
    assert asyncio.run(plain_stage.inventory.host("host2")).fence is None


def test_redfish_is_kept_without_its_password(
    plain_stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("correct horse\n")
    words = ["--redfish", "https://bmc2", "--user", "admin", "--password-file", str(tmp_path / "secret")]
    status, out, _ = typed(capsys, "host", "fencing", "host2", *words)
    assert status == 0
    assert f"Redfish at https://bmc2, as admin; password in {tmp_path}/secret" in out
    record = asyncio.run(plain_stage.inventory.host("host2"))
    assert "horse" not in out + repr(record)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--off-command", "x"], "--off-command and --status-command go together"),
        (["--off-command", "x 'y", "--status-command", "z"], "cannot be read"),
        (["--off-command", "", "--status-command", "z"], "there is no command"),
        (["--off-command", "x", "--status-command", "z", "--user", "u"], "by commands or over Redfish"),
        (["--redfish", "http://bmc", "--user", "u", "--password-env", "P"], "is not https://ADDRESS"),
        (["--redfish", "https://u:p@bmc", "--user", "u", "--password-env", "P"], "is not https://ADDRESS"),
        (["--redfish", "https://bmc", "--user", "u"], "one of --password-file and --password-env"),
        (["--redfish", "https://bmc", "--password-env", "P"], "--redfish needs --user"),
        (["--redfish", "https://bmc", "--user", "u", "--password-file", "/nowhere"], "there is no file /nowhere"),
        (["--automatic"], "--automatic goes with"),
        (["--none", "--automatic"], "--none forgets"),
        (["--user", "u"], "is not https://ADDRESS"),
    ],
)
def test_fencing_that_cannot_be_meant_is_refused(
    plain_stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    status, _, err = typed(capsys, "host", "fencing", "host2", *words)
    assert status == 2
    assert said in err
    assert asyncio.run(plain_stage.inventory.host("host2")).fence is None


def test_a_host_is_fenced_with_proof(plain_stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    device = fenceable(plain_stage)
    status, out, _ = typed(capsys, "host", "fence", "host2", "--status")
    assert (status, out) == (0, "host2 is NOT proven to be off: the device says On\n")
    status, _, err = typed(capsys, "host", "fence", "host2")
    assert status == 3
    assert "host2 answers: it is not dead" in err
    assert device.cuts == []
    plain_stage.world.hosts["host2"].crashed = True
    status, out, _ = typed(capsys, "host", "fence", "host2")
    assert status == 0
    assert "host2 is proven to be off: the device says Off" in out
    proof = asyncio.run(plain_stage.journal.decisions.proof("host2"))
    assert proof is not None
    assert proof.said == "the device says Off"


def test_a_guest_that_dies_with_its_host_is_named(plain_stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    plain_stage.world.hosts["host2"].crashed = True
    fenceable(plain_stage)

    async def moves_in() -> None:
        vm = await plain_stage.inventory.vm("web1")
        await plain_stage.inventory.put_vm(replace(vm, host="host2"))

    asyncio.run(moves_in())
    status, _, err = typed(capsys, "host", "fence", "host2")
    assert status == 3
    assert "web1 is on it" in err
    status, _, _ = typed(capsys, "host", "fence", "host2", "--yes")
    assert status == 0
    vm = asyncio.run(plain_stage.inventory.vm("web1"))
    assert asyncio.run(plain_stage.service.view_vm(vm)).state is RunState.ABSENT


def test_a_host_that_nothing_fences_is_told_so(plain_stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--status"]):
        status, _, err = typed(capsys, "host", "fence", "host1", *more)
        assert status == 5
        assert "nothing is known that cuts the power of host1" in err
        assert "mend: godwit host fencing host1 --help" in err
    del plain_stage
