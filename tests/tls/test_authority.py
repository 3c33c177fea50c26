"""The certificate authority in a folder: what it makes, how it keeps it, and how one follows another."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from godwit.core.trust import AUTHORITY_LIFE, DAY, MOVE_LIFE, SOON
from godwit.errors import TlsError
from godwit.tls.authority import FOLDER, HomeAuthority

if TYPE_CHECKING:
    from pathlib import Path

    from godwit.model import Credentials

NOW = 1_800_000_000.0


@dataclass
class Still:
    """A clock that stands until it is set."""

    time: float = NOW

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def authority(folder: Path, clock: Still | None = None) -> HomeAuthority:
    return HomeAuthority(folder, clock or Still())


def certificate(credentials: Credentials) -> x509.Certificate:
    return x509.load_pem_x509_certificate(credentials.certificate.encode())


def trusts(one: Credentials, other: Credentials) -> bool:
    """Say whether one end finds an authority of its own that has certified the other."""
    for known in x509.load_pem_x509_certificates(one.authorities.encode()):
        try:
            certificate(other).verify_directly_issued_by(known)
        except ValueError:
            continue
        return True
    return False


async def test_both_ends_of_a_move_are_certified_and_trust_each_other(tmp_path: Path) -> None:
    pair = await authority(tmp_path).pair("web1-0badcafe", "host2", "192.0.2.2")

    assert trusts(pair.server, pair.client)
    assert trusts(pair.client, pair.server)
    assert pair.identity == "CN=web1-0badcafe"
    assert certificate(pair.client).subject.rfc4514_string() == pair.identity
    assert certificate(pair.server).subject.rfc4514_string() == "CN=host2"
    assert pair.valid_from <= NOW - DAY
    assert pair.valid_until == NOW + MOVE_LIFE


@pytest.mark.parametrize("address", ["192.0.2.2", "[2001:db8::2]", "2001:DB8::2", "fe80::2%mig0", "Host2.example.org"])
async def test_a_host_is_certified_for_its_migration_address(tmp_path: Path, address: str) -> None:
    pair = await authority(tmp_path).pair("web1-0badcafe", "host2", address)
    names = certificate(pair.server).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    held = [*map(str, names.get_values_for_type(x509.IPAddress)), *names.get_values_for_type(x509.DNSName)]

    assert held == [address.strip("[]").partition("%")[0].lower()]


async def test_an_address_that_no_certificate_can_hold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match="höst2"):
        await authority(tmp_path).pair("web1-0badcafe", "host2", "höst2")


async def test_what_each_certificate_is_good_for(tmp_path: Path) -> None:
    pair = await authority(tmp_path).pair("web1-0badcafe", "host2", "192.0.2.2")
    known = x509.load_pem_x509_certificate(pair.client.authorities.encode())
    uses = known.extensions.get_extension_for_class(x509.KeyUsage).value

    assert known.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert uses.key_cert_sign
    assert not uses.digital_signature
    for end, purpose in (
        (pair.server, ExtendedKeyUsageOID.SERVER_AUTH),
        (pair.client, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        extensions = certificate(end).extensions
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment  # QEMU wants it on a curve, too
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]


async def test_each_move_has_certificates_and_keys_of_its_own_at_both_ends_for_a_week(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    pairs = [await kept.pair(name, "host2", "192.0.2.2") for name in ("a-00000001", "b-00000002", "b-00000002")]
    ends = [end for pair in pairs for end in (pair.server, pair.client)]

    assert len({end.key for end in ends}) == len({end.certificate for end in ends}) == 6
    assert pairs[0].identity != pairs[1].identity
    for end in ends:
        assert certificate(end).not_valid_after_utc.timestamp() == NOW + MOVE_LIFE


async def test_nothing_of_hosts_and_moves_is_kept(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    await kept.pair("a-00000001", "host2", "192.0.2.2")

    assert {path.name for path in (tmp_path / FOLDER).rglob("*")} == {"ca.pem", "lock"}


async def test_what_an_earlier_version_kept_of_hosts_is_removed(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    await kept.ensure()
    folder, outside = tmp_path / FOLDER, tmp_path / "outside.pem"
    outside.write_text("somebody's")
    (folder / "hosts").mkdir()
    (folder / "hosts" / "host2.pem").write_text("a key that holds for a year")
    (folder / "hosts" / "host3.pem").symlink_to(outside)
    (folder / "former-ca.pem").write_text("a former authority")
    await kept.pair("a-00000001", "host2", "192.0.2.2")

    assert {path.name for path in folder.rglob("*")} == {"ca.pem", "lock"}
    assert outside.read_text() == "somebody's"


async def test_only_the_owner_can_read_anything(tmp_path: Path) -> None:
    await authority(tmp_path).pair("a-00000001", "host2", "192.0.2.2")
    folder = tmp_path / FOLDER
    modes = {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes == {"ca.pem": 0o600, "lock": 0o600}


async def test_a_key_that_others_could_read_is_used_no_more(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    await kept.ensure()
    (tmp_path / FOLDER / "ca.pem").chmod(0o640)

    with pytest.raises(TlsError, match="owner alone") as raised:
        await kept.pair("a-00000001", "host2", "192.0.2.2")
    assert "chmod 600" in raised.value.remedy


async def test_a_folder_that_others_could_enter_is_closed(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(mode=0o755)
    await authority(tmp_path).ensure()

    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_a_damaged_authority_is_named_with_the_mend(tmp_path: Path, text: str) -> None:
    kept = authority(tmp_path)
    await kept.ensure()
    (tmp_path / FOLDER / "ca.pem").write_text(text)

    with pytest.raises(TlsError, match=r"ca\.pem") as raised:
        await kept.pair("a-00000001", "host2", "192.0.2.2")
    assert "rotate" in raised.value.remedy


async def test_a_key_of_another_certificate_is_noticed(tmp_path: Path) -> None:
    await authority(tmp_path / "one").ensure()
    await authority(tmp_path / "two").ensure()
    one, two = (tmp_path / name / FOLDER / "ca.pem" for name in ("one", "two"))
    cut = "-----BEGIN PRIVATE"
    one.write_text(one.read_text().partition(cut)[0] + cut + two.read_text().partition(cut)[2])

    with pytest.raises(TlsError, match="not that of its certificate"):
        await authority(tmp_path / "one").ensure()


async def test_a_full_or_forbidden_folder_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file in the way")

    with pytest.raises(TlsError, match="cannot be used"):
        await authority(tmp_path).ensure()


async def test_many_first_users_get_one_authority(tmp_path: Path) -> None:
    made = await asyncio.gather(*(authority(tmp_path).ensure() for _ in range(8)))

    assert len({facts.fingerprint for facts, _ in made}) == 1
    assert sum(now for _, now in made) == 1


async def test_a_former_authority_is_trusted_by_nothing_new_and_its_key_is_gone(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    before = await kept.pair("a-00000001", "host2", "192.0.2.2")
    old_key = (tmp_path / FOLDER / "ca.pem").read_text().partition("-----BEGIN PRIVATE")[2]
    facts = await kept.rotate()
    after = await kept.pair("b-00000002", "host2", "192.0.2.2")

    assert await kept.current() == facts
    assert trusts(after.server, after.client)
    assert trusts(after.client, after.server)
    assert not trusts(after.client, before.server)
    assert not trusts(after.server, before.client)
    assert not any(old_key in path.read_text() for path in (tmp_path / FOLDER).rglob("*"))


async def test_after_a_rotation_both_ends_of_what_is_under_way_trust_each_other_still(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    pair = await kept.pair("a-00000001", "host2", "192.0.2.2")
    await kept.rotate()

    assert trusts(pair.server, pair.client)
    assert trusts(pair.client, pair.server)


async def test_an_authority_that_was_stolen_is_trusted_no_more(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    await kept.ensure()
    stolen = (tmp_path / FOLDER / "ca.pem").read_text()
    await kept.rotate()
    pair = await kept.pair("b-00000002", "host2", "192.0.2.2")
    (tmp_path / "thief" / FOLDER).mkdir(parents=True, mode=0o700)
    (tmp_path / "thief" / FOLDER / "ca.pem").touch(mode=0o600)
    (tmp_path / "thief" / FOLDER / "ca.pem").write_text(stolen)
    forged = await authority(tmp_path / "thief").pair("b-00000002", "host2", "192.0.2.2")

    assert forged.identity == pair.identity
    assert not trusts(pair.server, forged.client)
    assert not trusts(pair.client, forged.server)


async def test_rotation_mends_what_cannot_be_read(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    await kept.pair("a-00000001", "host2", "192.0.2.2")
    (tmp_path / FOLDER / "ca.pem").write_text("nonsense")
    await kept.rotate()
    pair = await kept.pair("b-00000002", "host2", "192.0.2.2")

    assert trusts(pair.server, pair.client)


async def test_an_expired_authority_is_refused_and_replaced_by_rotation(tmp_path: Path) -> None:
    clock = Still()
    kept = authority(tmp_path, clock)
    await kept.pair("a-00000001", "host2", "192.0.2.2")
    clock.time += AUTHORITY_LIFE
    with pytest.raises(TlsError, match="does not hold now") as raised:
        await kept.pair("b-00000002", "host2", "192.0.2.2")
    assert "godwit tls rotate" in raised.value.remedy
    await kept.rotate()
    pair = await kept.pair("b-00000002", "host2", "192.0.2.2")

    assert pair.server.authorities.count("BEGIN CERTIFICATE") == 1  # QEMU takes no expired one among them
    assert trusts(pair.server, pair.client)


async def test_nothing_outlives_its_authority(tmp_path: Path) -> None:
    clock = Still()
    kept = authority(tmp_path, clock)
    facts, _ = await kept.ensure()
    clock.time = facts.valid_until - SOON / 100
    pair = await kept.pair("a-00000001", "host2", "192.0.2.2")

    assert pair.valid_until == facts.valid_until


async def test_keys_are_in_no_words(tmp_path: Path) -> None:
    pair = await authority(tmp_path).pair("a-00000001", "host2", "192.0.2.2")

    assert "PRIVATE" not in repr(pair)
    assert "BEGIN" not in repr(pair)


async def test_encryption_is_switched_off_and_on(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    seen = [await kept.is_off()]
    for off in (True, True, False):
        await kept.switch(off=off)
        seen.append(await kept.is_off())

    assert seen == [False, True, True, False]


async def test_each_home_has_a_mark_of_its_own_for_good(tmp_path: Path) -> None:
    one, other = authority(tmp_path / "one"), authority(tmp_path / "other")
    mark = await one.mark()
    await one.rotate()

    assert re.fullmatch("[0-9a-f]{8}", mark)
    assert await one.mark() == mark
    assert await other.mark() != mark


@pytest.mark.parametrize("text", ["", "../../etc", "0123456789"])
async def test_a_mark_that_is_none_is_made_anew(tmp_path: Path, text: str) -> None:
    kept = authority(tmp_path)
    await kept.ensure()
    (tmp_path / FOLDER / "mark").touch(mode=0o600)
    (tmp_path / FOLDER / "mark").write_text(text)
    mark = await kept.mark()

    assert re.fullmatch("[0-9a-f]{8}", mark)
    assert await kept.mark() == mark


@pytest.mark.parametrize("planted", ["somebody else's", "others write it", "a link", "a folder", "in their folder"])
async def test_nobody_but_the_owner_switches_encryption_off(
    tmp_path: Path, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = authority(tmp_path)
    await kept.ensure()
    off = tmp_path / FOLDER / "off"
    if planted == "a link":
        off.symlink_to("/etc/hostname")
    elif planted == "a folder":
        off.mkdir()
    else:
        off.write_text("off\n")
        off.chmod(0o602 if planted == "others write it" else 0o600)
    if planted == "somebody else's" and os.geteuid() == 0:
        os.chown(off, 64321, 64321)
    elif planted in {"somebody else's", "in their folder"}:
        monkeypatch.setattr(os, "geteuid", lambda: 64321)

    with pytest.raises(TlsError, match=r"somebody else|another user"):
        await kept.is_off()
