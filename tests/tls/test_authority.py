"""The certificate authority in a folder: what it makes, how it keeps it, and how one follows another."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from godwit.core.trust import AUTHORITY_LIFE, DAY, HOST_LIFE, MOVE_LIFE, SOON
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


async def test_a_move_has_a_certificate_of_its_own_and_a_host_keeps_what_it_has(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    one, other = (
        await kept.pair("a-00000001", "host2", "192.0.2.2"),
        await kept.pair("b-00000002", "host2", "192.0.2.2"),
    )

    assert one.server == other.server
    assert one.client.key != other.client.key
    assert one.identity != other.identity


async def test_a_host_is_certified_anew_for_another_address_and_before_its_certificate_ends(tmp_path: Path) -> None:
    clock = Still()
    kept = authority(tmp_path, clock)
    first = await kept.pair("a-00000001", "host2", "192.0.2.2")
    moved = await kept.pair("a-00000001", "host2", "192.0.2.3")
    clock.time = NOW + HOST_LIFE - DAY
    later = await kept.pair("a-00000001", "host2", "192.0.2.3")

    assert len({first.server.certificate, moved.server.certificate, later.server.certificate}) == 3
    assert later.valid_until == clock.time + MOVE_LIFE


async def test_only_the_owner_can_read_anything(tmp_path: Path) -> None:
    await authority(tmp_path).pair("a-00000001", "host2", "192.0.2.2")
    folder = tmp_path / FOLDER
    modes = {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes == {"ca.pem": 0o600, "hosts": 0o700, "hosts/host2.pem": 0o600, "lock": 0o600}


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


async def test_after_a_rotation_what_is_under_way_goes_on_and_the_old_key_is_gone(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    before = await kept.pair("a-00000001", "host2", "192.0.2.2")
    old_key = (tmp_path / FOLDER / "ca.pem").read_text().partition("-----BEGIN PRIVATE")[2]
    facts, anew = await kept.rotate()
    after = await kept.pair("b-00000002", "host2", "192.0.2.2")

    assert anew == ("host2",)
    assert (await kept.trusted())[0] == facts
    assert len(await kept.trusted()) == 2
    assert trusts(after.server, after.client)
    assert trusts(after.client, before.server)
    assert trusts(after.server, before.client)
    assert not trusts(before.server, after.client)
    assert not any(old_key in path.read_text() for path in (tmp_path / FOLDER).rglob("*.pem"))


async def test_the_former_authority_is_trusted_until_its_moves_are_over(tmp_path: Path) -> None:
    clock = Still()
    kept = authority(tmp_path, clock)
    await kept.pair("a-00000001", "host2", "192.0.2.2")
    await kept.rotate()
    clock.time += MOVE_LIFE - 1
    during = await kept.pair("b-00000002", "host2", "192.0.2.2")
    clock.time += 1
    over = await kept.pair("c-00000003", "host2", "192.0.2.2")

    assert during.server.authorities.count("BEGIN CERTIFICATE") == 2
    assert over.server.authorities.count("BEGIN CERTIFICATE") == 1


async def test_an_authority_that_was_stolen_is_trusted_no_more(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    before = await kept.pair("a-00000001", "host2", "192.0.2.2")
    _, anew = await kept.rotate(at_once=True)
    after = await kept.pair("b-00000002", "host2", "192.0.2.2")

    assert anew == ()
    assert not trusts(after.server, before.client)
    assert not trusts(after.client, before.server)
    assert trusts(after.client, after.server)


async def test_rotation_mends_what_cannot_be_read(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    await kept.pair("a-00000001", "host2", "192.0.2.2")
    (tmp_path / FOLDER / "ca.pem").write_text("nonsense")
    (tmp_path / FOLDER / "hosts" / "host2.pem").write_text("nonsense")
    await kept.rotate(at_once=True)
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
    again = await kept.pair("a-00000001", "host2", "192.0.2.2")

    assert pair.valid_until == facts.valid_until
    assert again.server == pair.server


async def test_keys_are_in_no_words(tmp_path: Path) -> None:
    pair = await authority(tmp_path).pair("a-00000001", "host2", "192.0.2.2")

    assert "PRIVATE" not in repr(pair)
    assert "BEGIN" not in repr(pair)


async def test_a_forgotten_host_leaves_nothing(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    await kept.forget("host2")
    await kept.pair("a-00000001", "host2", "192.0.2.2")
    await kept.forget("host2")

    assert await kept.hosts() == {}
    assert list((tmp_path / FOLDER / "hosts").iterdir()) == []


async def test_encryption_is_switched_off_and_on(tmp_path: Path) -> None:
    kept = authority(tmp_path)
    seen = [await kept.is_off()]
    for off in (True, True, False):
        await kept.switch(off=off)
        seen.append(await kept.is_off())

    assert seen == [False, True, True, False]
