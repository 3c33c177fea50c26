"""`godwit tls`: what it makes, what it shows, and what it says where encryption does not work."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from clistage import Stage

from godwit.cli import ground
from godwit.cli.main import main
from godwit.core.trust import AUTHORITY_LIFE, DAY
from godwit.errors import HostError
from godwit.hosts.fakecredentials import FakeAuthority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from godwit.hosts.fake import FakeHost
    from godwit.model import Pair

Typed = tuple[int, str, str]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(ground, "opener", stage.opened)
    return stage


@pytest.fixture
def typed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> Callable[..., Typed]:
    def typed(*words: str) -> Typed:
        assert ground.opener == stage.opened
        capsys.readouterr()
        status = main(["tls", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return typed


def host(stage: Stage, name: str) -> FakeHost:
    return stage.world.hosts[name]


def kept(stage: Stage) -> FakeAuthority:
    authority = stage.service.authority
    assert isinstance(authority, FakeAuthority)
    return authority


def test_an_authority_is_made_once(typed: Callable[..., Typed]) -> None:
    first, second = typed("init"), typed("init", "--json")

    assert first[0] == 0
    assert "made a certificate authority" in first[1]
    assert json.loads(second[1])["made"] is False


def test_all_hosts_are_tried(typed: Callable[..., Typed], stage: Stage) -> None:
    status, said, _ = typed("check")

    assert status == 0
    assert said.count("works") == 2
    assert "198.18.0.1 " in said
    assert kept(stage).authority
    assert not host(stage, "host1").credentials


def test_checking_without_hosts_makes_nothing(typed: Callable[..., Typed], stage: Stage) -> None:
    stage.inventory._hosts.clear()
    status, said, _ = typed("check")

    assert status == 0
    assert "no certificate authority yet" in said
    assert kept(stage).authority is None


def test_a_host_whose_qemu_cannot_is_named(typed: Callable[..., Typed], stage: Stage) -> None:
    host(stage, "host2").has_tls = False
    status, said, complaint = typed("check")

    assert status == 17
    assert "fails" in said
    assert "host2" in complaint
    assert "GNUTLS" in complaint
    assert "mend:" in complaint


def test_keys_of_a_trial_that_was_cut_off_are_removed(typed: Callable[..., Typed], stage: Stage) -> None:
    one = host(stage, "host1")
    answers = one.try_handshake

    async def cut_off(owner: str, pair: Pair, address: str, port: int) -> None:
        await answers(owner, pair, address, port)
        one.credentials[owner, "server"] = pair.server
        raise HostError("the connection was lost")

    one.try_handshake = cut_off  # type: ignore[method-assign]
    status, _, complaint = typed("check")

    assert status == 17
    assert "the connection was lost" in complaint
    assert "keys" not in complaint
    assert one.credentials == {}


def test_keys_of_a_trial_that_are_left_are_named(typed: Callable[..., Typed], stage: Stage) -> None:
    one = host(stage, "host1")

    async def stays(owner: str) -> None:
        raise HostError(f"the keys of {owner} are left: it is read-only")

    one.remove_credentials = stays  # type: ignore[method-assign]
    status, _, complaint = typed("check")

    assert status == 17
    assert "keys of this check (tls-check-" in complaint
    assert "may be left on host1" in complaint
    assert "/run/godwit-tls" in complaint


def test_programs_get_the_same(typed: Callable[..., Typed], stage: Stage) -> None:
    host(stage, "host2").has_tls = False
    status, said, _ = typed("check", "--json")
    found: dict[str, Any] = json.loads(said)

    assert status == 17
    assert found["works"] is False
    assert [bool(one["trouble"]) for one in found["hosts"]] == [False, True]


def test_one_host_alone_is_checked(typed: Callable[..., Typed], stage: Stage) -> None:
    host(stage, "host2").crashed = True
    assert typed("check", "host1")[0] == 0
    assert typed("check", "host2")[0] == 17
    assert typed("check", "host3")[0] == 2


def test_what_is_certified_by_hand_lies_where_qemu_looks_for_it(typed: Callable[..., Typed], tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    status, said, _ = typed("issue", "host1", str(folder))

    assert status == 0
    assert "198.18.0.1" in said
    assert "CN=by-hand-" in said
    ends = {f"{end}-{part}.pem" for end in ("server", "client") for part in ("cert", "key")}
    assert {path.name for path in folder.iterdir()} == ends | {"ca-cert.pem", "dh-params.pem"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_programs_get_what_was_certified_by_hand_without_keys(typed: Callable[..., Typed], tmp_path: Path) -> None:
    _, said, _ = typed("issue", "host1", str(tmp_path / "keys"), "--json")
    issued = json.loads(said)

    assert (issued["host"], issued["address"], issued["folder"]) == ("host1", "198.18.0.1", str(tmp_path / "keys"))
    assert "key of" not in said


def test_nothing_is_put_over_what_is_there(typed: Callable[..., Typed], tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    (folder / "client-key.pem").write_text("somebody's")
    status, _, complaint = typed("issue", "host1", str(folder))

    assert status == 2
    assert "client-key.pem: File exists" in complaint
    assert [path.name for path in folder.iterdir()] == ["client-key.pem"]
    assert (folder / "client-key.pem").read_text() == "somebody's"


def test_the_end_is_told_beforehand_and_stops_everything_at_last(typed: Callable[..., Typed], stage: Stage) -> None:
    typed("init")
    authority = kept(stage)
    facts = authority.authority
    assert facts is not None
    now = facts.valid_until - AUTHORITY_LIFE
    near, over = (
        type(facts)(facts.subject, (), now - AUTHORITY_LIFE, end, facts.fingerprint)
        for end in (now + 3 * DAY, now - 1.0)
    )
    authority.authority = near
    soon = typed("check")
    authority.authority = over
    expired = typed("check")

    assert soon[0] == 0
    assert "warning: the certificate authority ends in" in soon[1]
    assert expired[0] == 17
    assert "mend: godwit tls rotate" in expired[2]


def test_rotation_says_what_it_did(typed: Callable[..., Typed], stage: Stage) -> None:
    typed("init")
    before = kept(stage).authority
    status, said, _ = typed("rotate")
    after = kept(stage).authority

    assert status == 0
    assert before != after
    assert after is not None
    assert after.fingerprint in said
    assert typed("rotate", "--at-once")[0] == 2


def test_encryption_off_for_good_is_said_each_time(typed: Callable[..., Typed]) -> None:
    assert typed("off")[0] == 0
    assert "switched off" in typed("check")[1]
    assert typed("on")[0] == 0
    assert "switched off" not in typed("check")[1]
