from __future__ import annotations

import pytest

from godwit.hosts.launching import died
from godwit.model import Launch, Vm

VM = Vm("web1", "h1", Launch(("qemu",)), "/q")


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ('qemu: -device virtio-blk-pci,drive=d0: Failed to get "write" lock\nIs another process using', "another QEMU"),
        ("qemu: -drive file=/a.img: Could not open '/a.img': No such file or directory", "mounted on this host"),
        ("qemu: Could not open '/a.img': Permission denied", "may read and write"),
        ("could not configure /dev/net/tun (tap0): Device or resource busy", "another guest has this tap open"),
        ("could not configure /dev/net/tun (tap0): Operation not permitted", "tap and its bridge"),
        ("qemu: -vnc :1: Failed to find an available port: Address already in use", "is taken"),
        ("qemu: -incoming tcp:198.18.0.9:6666: Cannot assign requested address", "--migration-address"),
        ("Could not access KVM kernel module: No such file or directory", "godwit host check"),
        ("qemu: unsupported machine type\nUse -machine help to list supported machines", "machine type"),
        ("qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", "memory does not suffice"),
        ("qemu: unable to find CPU model 'x'", "CPU model"),
        ("qemu: -device x: 'x' is not a valid device model name", "device"),
    ],
)
def test_the_usual_last_words_have_a_mend(words: str, mend: str) -> None:
    error = died("h1", VM, words, "with status 1 ")
    assert words in error.message
    assert "web1 on h1 ended with status 1 at its start" in error.message
    assert mend in error.remedy


def test_unusual_words_are_quoted_without_advice() -> None:
    error = died("h1", VM, "something else")
    assert error.remedy == ""
    assert "something else" in error.message
    assert "it said nothing" in died("h1", VM, " \n").message
