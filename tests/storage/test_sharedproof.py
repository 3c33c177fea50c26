from __future__ import annotations

import pytest

from godwit.errors import BusyError, HostError, InputError
from godwit.storage.sharedproof import check_path, check_token, parse_found, planting_error


@pytest.mark.parametrize("token", ["", "a b", "a\n", "x" * 201, "ä", "a/b"])
def test_tokens_that_would_not_come_back_unchanged(token: str) -> None:
    with pytest.raises(InputError, match="no token"):
        check_token(token)


def test_paths_mean_the_same_on_two_hosts() -> None:
    assert check_path("/mnt/images/a.img") == "/mnt/images/a.img"
    with pytest.raises(InputError, match="absolute"):
        check_path("images/a.img")


def test_what_was_found() -> None:
    assert parse_found("identity 1024:77\ntoken abc\n") == ("abc", "1024:77")
    assert parse_found("identity 1024:77\n") == (None, "1024:77")
    assert parse_found("absent\n") == (None, "")
    assert parse_found("identity 1:2\ntoken \n") == (None, "1:2")


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("absent\n", HostError, "h1 has no /d"),
        ("busy /x/.godwit-1", BusyError, "another check of /d"),
        ("refused sh: 3: cannot create: Permission denied", HostError, "Permission denied"),
        ("", HostError, "said nothing"),
    ],
)
def test_why_a_token_could_not_be_left(said: str, kind: type[Exception], words: str) -> None:
    error = planting_error("h1", "/d", said)
    assert type(error) is kind
    assert words in str(error)


def test_a_planted_token_is_no_error() -> None:
    assert planting_error("h1", "/d", "planted\n") is None
