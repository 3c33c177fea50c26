"""What a host keeps of its QEMU's answers: none that was cut off."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from godwit.hosts.factsparse import split_sections
from godwit.hosts.hostfacts import _FACTS

if TYPE_CHECKING:
    from pathlib import Path

MODELS = '{"return": [{"name": "qemu64", "unavailable-features": []}]}'
QEMU = """#!/bin/sh
case "$*" in *-qmp*) ;; *) echo "QEMU emulator version 10.0.2"; exit 0 ;; esac
echo asked >> FOLDER/count
while read -r line; do
    case $line in *definitions*) echo 'MODELS' ;; esac
done
exit STATUS
"""


class Asked:
    """A QEMU that ends with a status, the script that asks it, and how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, models: str, status: int) -> dict[str, str]:
        qemu = self.folder / "qemu"
        if not qemu.exists():
            qemu.write_text(f'#!/bin/sh\nexec {self.folder}/real "$@"\n')  # kept is what it says by time and size
            qemu.chmod(0o755)
        real = QEMU.replace("FOLDER", str(self.folder)).replace("MODELS", models).replace("STATUS", str(status))
        (self.folder / "real").write_text(real)
        (self.folder / "real").chmod(0o755)
        script = f"runtime() {{ echo {self.folder}; }}\n{_FACTS}"
        argv = ["sh", "-s", "--", str(qemu), "", "no-such-accelerator"]
        done = subprocess.run(argv, input=script, capture_output=True, text=True, check=True)
        return split_sections(done.stdout)

    @property
    def times(self) -> int:
        return len((self.folder / "count").read_text(encoding="ascii").splitlines())


@pytest.mark.parametrize(("status", "again"), [(0, False), (1, False), (124, True)])
def test_what_a_qemu_was_cut_off_at_is_asked_again(tmp_path: Path, status: int, *, again: bool) -> None:
    """A build without an accelerator ends at once, and has said all that it ever will."""
    asked = Asked(tmp_path)
    first = asked.run("", status)
    before = asked.times
    assert first["tcg-models"] == ""
    assert "version 10.0.2" in first["version"]
    second = asked.run(MODELS, 0)
    assert (asked.times > before) is again
    assert bool(second["tcg-models"]) is again
    assert not list(tmp_path.glob("facts/.new*"))
