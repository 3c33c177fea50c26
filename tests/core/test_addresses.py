"""What the address of a disk says, and whether another host could mean the same by it."""

from __future__ import annotations

import pytest

from godwit.core.addresses import is_network_address, unreachable


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nbd://198.51.100.9:10809/disk", ""),
        ("nbd://storage/disk", ""),
        ("nbd:storage:10809:exportname=disk", ""),
        ("nbd:[2001:db8::1]:10809", ""),
        ("nfs://storage/export/web.qcow2?uid=0", ""),
        ("nbd://[2001:db8::1]:10809/disk", ""),
        ("nbd://localhost/disk", "this very host"),
        ("nbd://127.0.0.5:10809/disk", "this very host"),
        ("nbd:127.0.0.1:10809", "this very host"),
        ("nbd://[::1]/disk", "this very host"),
        ("nfs://0.0.0.0/export/disk", "this very host"),
        ("nbd:unix:/run/nbd.sock", "UNIX socket"),
        ("nbd+unix:///disk?socket=/run/nbd.sock", "UNIX socket"),
        ("nbd://", "no server"),
        ("nbd://[::1", "no server"),
    ],
)
def test_an_address_that_means_one_host_alone_is_told(path: str, words: str) -> None:
    assert is_network_address(path)
    why = unreachable(path)
    assert words in why
    assert bool(why) is bool(words)


@pytest.mark.parametrize("path", ["/images/nbd:x", "fat:/x", "json:{}", "nbdx", "rbd:pool/image", ""])
def test_a_path_is_no_address(path: str) -> None:
    assert not is_network_address(path)
