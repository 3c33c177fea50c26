"""Whole files: what the scripts' words mean, and the scripts on this machine with stand-ins for QEMU's programs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from godwit.errors import BusyError, HostError
from godwit.storage import files

NBD = r"""#!/bin/sh
for word in "$@"; do
    case $word in
    --port=*) port=${word#--port=} ;;
    --pid-file=*) pidfile=${word#--pid-file=} ;;
    --export-name=*) name=$word ;;
    esac
done
[ "$port" != "$TAKEN" ] || { echo "Failed to find an available port: Address already in use" >&2; exit 1; }
[ -z "$REFUSES" ] || { echo "$REFUSES" >&2; exit 1; }
sh -c 'exec sleep 60' serving "$name" > /dev/null 2>&1 < /dev/null &
echo $! > "$pidfile"
"""
"""Takes a port unless it is $TAKEN, and lives until it is killed."""

IMG = r"""#!/bin/sh
[ -z "$REFUSES" ] || { echo "$REFUSES" >&2; exit 1; }
for word in "$@"; do last=$word; done
printf 'content and more' > "$last"
"""
"""Writes more than the file holds, as whole sectors are more."""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("qemu-nbd", NBD), ("qemu-img", IMG)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return tmp_path


def run(here: Path, script: str, *arguments: str, **environment: str) -> str:
    prelude = f'set -u\nruntime() {{ echo "{here}/run"; }}\n'
    done = subprocess.run(
        ["sh", "-s", "--", *arguments],
        input=prelude + script,
        env={"PATH": f"{here}/bin:{os.environ['PATH']}", "TAKEN": "", "REFUSES": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def serve(here: Path, lease: str = "lease", *, seconds: int = 30, **environment: str) -> str:
    file = here / "a file"
    file.write_text("content")
    (here / "run").mkdir(exist_ok=True)
    return run(here, files.SERVE, str(file), lease, "198.18.0.1", "49152", "49154", str(seconds), **environment)


def served(here: Path) -> int:
    return int((here / "run" / "files" / "lease.pid").read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_file_is_served_at_a_port_that_is_free_until_its_lease_ends(here: Path) -> None:
    said = serve(here, seconds=1, TAKEN="49152")
    assert said == "serving 49153 7\n"
    pid = served(here)
    assert alive(pid)
    assert gone(pid), "nobody asked for it any more"


@pytest.mark.parametrize("words", ["Failed to get shared lock", "Cannot assign requested address"])
def test_what_cannot_be_served_says_why_and_leaves_nothing(here: Path, words: str) -> None:
    assert serve(here, REFUSES=words) == f"failed {words}\n"
    assert list((here / "run" / "files").iterdir()) == []


def test_no_file_and_no_program(here: Path) -> None:
    assert run(here, files.SERVE, f"{here}/none", "l", "a", "1", "2", "30").startswith("absent ")
    assert run(here, files.USED, f"{here}/none") == "0\n"
    run(here, files.RENEW, "none")
    run(here, files.STOP_SERVING, "none")


def test_only_the_exporter_of_a_lease_is_ended(here: Path) -> None:
    """Whose number has become another's is left alone."""
    folder = here / "run" / "files"
    folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        (folder / "lease.pid").write_text(f"{other.pid}\n")
        run(here, files.STOP_SERVING, "lease")
        assert other.poll() is None
        other.kill()
    assert list(folder.iterdir()) == []


def fetch(here: Path, target: Path, **environment: str) -> Exception | None:
    said = run(here, files.FETCH, str(target), "me", "7", "nbd://198.18.0.1:49152/lease", **environment)
    return files.fetching_error("two", str(target), said)


def test_a_file_that_is_fetched_has_its_own_length_and_a_mark(here: Path) -> None:
    target = here / "new file"
    assert fetch(here, target) is None
    assert target.read_text() == "content"
    assert [path.name for path in here.glob(".godwit-*.copy")] != []


@pytest.mark.parametrize(
    ("words", "remedy"), [("error while writing: No space left on device", "room"), ("Connection refused", "way")]
)
def test_a_file_that_cannot_be_fetched_keeps_its_mark_so_that_it_can_be_removed(
    here: Path, words: str, remedy: str
) -> None:
    error = fetch(here, here / "new", REFUSES=words)
    assert isinstance(error, HostError)
    assert words in error.message
    assert remedy in error.remedy
    assert [path.name for path in here.glob(".godwit-*.copy")] != []


def test_what_is_there_is_somebody_s(here: Path) -> None:
    target = here / "there"
    target.write_text("somebody's")
    assert isinstance(fetch(here, target), HostError)
    assert target.read_text() == "somebody's"
    assert fetch(here, here / "mine") is None
    assert isinstance(fetch(here, here / "mine"), BusyError)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("missing\n", "no qemu-nbd"),
        ("absent stat: cannot stat\n", "cannot stat"),
        ("failed Cannot assign requested address\n", "Cannot assign"),
        ("", "said nothing"),
    ],
)
def test_what_the_server_says_is_told(said: str, words: str) -> None:
    with pytest.raises(HostError, match=words):
        files.parse_serving(said, "one", "/a", "198.18.0.1", "lease")


def test_an_address_of_version_6_is_in_brackets() -> None:
    assert files.parse_serving("serving 5 9\n", "one", "/a", "2001:db8::1", "x").uri == "nbd://[2001:db8::1]:5/x"
