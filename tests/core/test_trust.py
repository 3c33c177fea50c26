"""When a certificate holds, and what the certificate of a move is called."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.trust import (
    DAY,
    DH_PARAMETERS,
    SOON,
    Standing,
    common_name,
    distinguished_name,
    is_numeric,
    standing,
    verified_name,
)
from godwit.identifiers import new_identifier

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (-1.0, Standing.EARLY),
        (0.0, Standing.GOOD),
        (100 * DAY - SOON, Standing.GOOD),
        (100 * DAY - SOON + 1, Standing.SOON),
        (100 * DAY - 1, Standing.SOON),
        (100 * DAY, Standing.EXPIRED),
    ],
)
def test_how_a_certificate_of_100_days_stands(now: float, expected: Standing) -> None:
    assert standing(0.0, 100 * DAY, now) is expected


@given(NAMES, NAMES)
def test_moves_of_any_two_guests_have_names_that_fit_and_differ(one: str, other: str) -> None:
    names = [common_name(new_identifier(vm)) for vm in (one, other)]

    assert all(1 <= len(name) <= 64 for name in names)
    assert names[0] != names[1]


@given(NAMES)
def test_a_name_that_is_too_long_is_cut_to_one_of_its_own(vm: str) -> None:
    long, longer = f"{vm}{'x' * 70}", f"{vm}{'x' * 71}"

    assert common_name(long) == common_name(long)
    assert common_name(long) != common_name(longer)
    assert common_name(long).startswith(long[:30])


def test_a_distinguished_name_is_what_qemu_says() -> None:
    assert distinguished_name("web1-0badcafe") == "CN=web1-0badcafe"


@pytest.mark.parametrize(
    ("address", "name", "numeric"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("fe80::1%mig0", "fe80::1", True),
        ("host2.example.org", "host2.example.org", False),
    ],
)
def test_what_a_server_must_be_called_at_an_address(address: str, name: str, *, numeric: bool) -> None:
    assert verified_name(address) == name
    assert is_numeric(name) is numeric


def euler(bits: int) -> int:
    """Return the integer part of e times 2 to the power of so many bits."""
    more = 64
    total = term = 1 << (bits + more)
    number = 1
    while term:
        term //= number
        total += term
        number += 1
    return total >> more


def test_the_group_of_servers_is_that_of_rfc_7919() -> None:
    """Its prime is made from e, appendix A.1; PKCS #3 has it, and the generator 2, as two integers in a sequence."""
    prime = 2**2048 - 2**1984 + (euler(1918) + 560316) * 2**64 - 1
    head, *lines, foot = DH_PARAMETERS.splitlines()
    body = b"\x02\x82\x01\x01\x00" + prime.to_bytes(256, "big") + b"\x02\x01\x02"

    assert (head, foot) == ("-----BEGIN DH PARAMETERS-----", "-----END DH PARAMETERS-----")
    assert base64.b64decode("".join(lines)) == b"\x30\x82" + len(body).to_bytes(2, "big") + body
