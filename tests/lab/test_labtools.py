"""What a look at a QEMU tells that ends at that very moment."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from labtools import GONE, Ground

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MONITOR = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[2].partition("path=")[2])
server.listen()
print("listens", flush=True)
connection, _ = server.accept()
if sys.argv[1] == "ends at once":
    sys.exit()
connection.sendall(b'{"QMP": {}}\\n')
if sys.argv[1] == "ends when it is asked":
    connection.recv(100)
    sys.exit()
connection.recv(100)
connection.sendall(b'{"return": {}}\\n' if sys.argv[1] == "answers" else b"what?\\n")
connection.recv(100)
connection.sendall(b'{"return": {"status": "running"}}\\n')
time.sleep(60)
"""


def looked_at(folder: Path, how: str, before: Callable[[subprocess.Popen[str]], object] = lambda _: None) -> str:
    command = [sys.executable, "-c", MONITOR, how, f"socket,id=observe,path={folder}/observe.sock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listens\n"
            before(process)
            return Ground.run_state(Ground.__new__(Ground), process.pid)
        finally:
            process.kill()


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()


def buried(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("how", "before"),
    [("answers", killed), ("answers", buried), ("ends at once", None), ("ends when it is asked", None)],
)
def test_a_qemu_that_has_ended_meanwhile_is_gone(
    tmp_path: Path, how: str, before: Callable[[subprocess.Popen[str]], object] | None
) -> None:
    assert looked_at(tmp_path, how, before or (lambda _: None)) == GONE


def test_one_that_lives_says_how_it_is(tmp_path: Path) -> None:
    assert looked_at(tmp_path, "answers") == "running"


def test_one_that_lives_and_cannot_be_understood_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        looked_at(tmp_path, "talks nonsense")
