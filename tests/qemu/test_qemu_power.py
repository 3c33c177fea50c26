"""What a QEMU does when its guest switches itself off: what its command line says is what is brought about again."""

from __future__ import annotations

import pytest

from godwit.qemu.power import actions_of


@pytest.mark.parametrize(
    ("words", "shutdown", "reboot"),
    [
        ((), "poweroff", "reset"),
        (("-no-shutdown",), "pause", "reset"),
        (("--no-reboot",), "poweroff", "shutdown"),
        (("-no-shutdown", "-no-reboot"), "pause", "shutdown"),
        (("-action", "shutdown=pause,reboot=shutdown"), "pause", "shutdown"),
        (("-action", "panic=pause"), "poweroff", "reset"),
        (("-no-shutdown", "-action", "shutdown=poweroff"), "poweroff", "reset"),
        (("-no-shutdown", "-an-option-of-tomorrow"), "poweroff", "reset"),
    ],
)
def test_actions(words: tuple[str, ...], shutdown: str, reboot: str) -> None:
    assert actions_of(("qemu-system-x86_64", *words)) == {"shutdown": shutdown, "reboot": reboot}
