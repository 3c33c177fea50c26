"""Moving files: what the scripts say, how long they may take, and what they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from godwit.storage import transfer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUNTIME = 'runtime() { echo "$FOLDER"; }\n'


def end(folder: Path, owner: str) -> str:
    done = subprocess.run(
        ["sh", "-s", "--", owner], input=RUNTIME + transfer.END, env={**os.environ, "FOLDER": str(folder)},
        capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a transfer's name on its command line."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "web-1.job"]) as process:
        yield process
        process.kill()


def test_only_what_carries_the_transfer_s_name_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record = tmp_path / "send-web-2.job.pid"
    record.write_text(str(sleeper.pid))
    assert end(tmp_path, "web-2.job") == ""
    assert sleeper.poll() is None, "its number was another's by then"
    assert not record.exists()
    (tmp_path / "take-web-1.job.pid").write_text(str(sleeper.pid))
    assert end(tmp_path, "web-1.job") == ""
    assert sleeper.wait(5) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert end(tmp_path, "web-1.job") == "", "and again"


@pytest.mark.parametrize(
    ("said", "words"),
    [("sent\n", None), ("failed status 1: no room\n", "no room"), ("", "the shell said nothing"), ("equal", None)],
)
def test_what_a_script_failed_at_is_told(said: str, words: str | None) -> None:
    error = transfer.trouble(said, "sending /a on host1")
    assert (error is None) is (words is None)
    if error is not None:
        assert error.message.endswith(str(words))


def test_a_slow_limit_is_given_its_time() -> None:
    assert transfer.life_of(0, 0) == transfer.life_of(0, 1000)
    assert transfer.life_of(1 << 30, 0) > (1 << 30) / transfer.SLOWEST
    assert transfer.life_of(1 << 30, 1000) > (1 << 30) / 1000


@pytest.mark.parametrize(
    ("address", "host", "name"),
    [
        ("192.0.2.7", "192.0.2.7", None),
        ("2001:db8::7", "2001:db8::7", None),
        ("fe80::7%mig0", "fe80::7%mig0", "fe80::7"),
    ],
)
def test_an_encrypted_place_names_server_export_and_credentials(address: str, host: str, name: str | None) -> None:
    said = transfer.encrypted(transfer.place_of(address, 49152, "web-1.abc"))
    found = json.loads(said.removeprefix("json:"))

    assert found["driver"] == "raw"
    assert found["file"]["server"] == {"type": "inet", "host": host, "port": "49152"}
    assert found["file"]["export"] == "web-1.abc"
    assert found["file"]["tls-creds"] == transfer.TLS
    assert found["file"].get("tls-hostname") == name
