"""Keys on a plain host, on its real file system: whose they are, who reads them, and that they are gone, or said."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from godwit.errors import HostError
from godwit.hosts.connect import open_host
from godwit.model import Credentials, HostRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.hosts.plain import PlainHost

OWNER: Final = f"keys-test-{os.getpid()}"
ENDS: Final = {role: Credentials("authority", f"{role}'s", f"secret of the {role}") for role in ("server", "client")}
QEMU: Final = 64321
"""A user, and the group that is that user's alone."""
OTHER: Final = 64322

root: Final = pytest.mark.skipif(os.geteuid() != 0, reason="NOT SHOWN HERE: only root can be another user")


@pytest.fixture
async def here() -> PlainHost:
    return open_host(HostRecord("here", "local"))


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    yield
    shutil.rmtree(Path("/run/godwit-tls") / OWNER, ignore_errors=True)


@pytest.fixture
def victim() -> Iterator[Path]:
    """A folder with a file of root's that a link may lead to."""
    folder = Path(f"/run/{OWNER}-victim")
    folder.mkdir()
    (folder / "file").write_text("as it was")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def qemu() -> Iterator[int]:
    """A process of another user."""
    with process(QEMU) as running:
        yield running.pid
        running.kill()


def process(group: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], user=QEMU, group=group, extra_groups=[])


def lacks(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program fail on this host."""
    (folder / program).write_text(f"#!/bin/sh\necho {program}: Operation not supported >&2\nexit 1\n")
    (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def does(user: int, *words: str) -> bool:
    """Say whether another user can do something."""
    done = subprocess.run(words, user=user, group=user, extra_groups=[], capture_output=True, check=False)
    return done.returncode == 0


def of(path: Path) -> tuple[int, int]:
    """Return whose a file is, and its mode; a link is not followed."""
    found = path.lstat()
    return found.st_uid, stat.S_IMODE(found.st_mode)


def within(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what lies in a folder, whose it is, and its mode."""
    return {path.name: of(path) for path in folder.iterdir()}


def files(role: str, user: int, mode: int = 0o600) -> dict[str, tuple[int, int]]:
    """Return what is to lie in a folder of keys."""
    more = ("dh-params.pem",) if role == "server" else ()
    return dict.fromkeys(("ca-cert.pem", f"{role}-cert.pem", f"{role}-key.pem", *more), (user, mode))


def there(path: Path) -> bool:
    """Say whether there is something of that name, a link that leads nowhere, too."""
    return os.path.lexists(path)


async def test_keys_are_the_logins_own_and_nobody_else_reads_them(here: PlainHost) -> None:
    folder = Path(await here.put_credentials(OWNER, "server", ENDS["server"]))
    me = os.geteuid()

    assert of(folder) == (me, 0o700)
    assert within(folder) == files("server", me)
    assert (folder / "server-key.pem").read_text() == "secret of the server\n"
    await here.remove_credentials(OWNER)
    assert not there(folder)
    await here.remove_credentials(OWNER)


async def test_with_a_guests_keys_go_those_of_its_transfers_and_nobody_elses(here: PlainHost) -> None:
    names = (OWNER, f"{OWNER}.0123", f"{OWNER}2", f"{OWNER}-3.0123")
    folders = [Path(await here.put_credentials(name, "server", ENDS["server"])) for name in names]
    await here.remove_credentials(OWNER)

    assert [there(folder) for folder in folders] == [False, False, True, True]
    for name in names[2:]:
        await here.remove_credentials(name)
    assert not any(there(folder) for folder in folders)


@root
@pytest.mark.parametrize("way", ["by a list", "by a group"])
async def test_a_qemu_of_another_user_reads_its_keys_and_can_do_nothing_else_there(
    here: PlainHost, qemu: int, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "by a group":
        lacks("setfacl", tmp_path, monkeypatch)
    elif shutil.which("setfacl") is None:
        pytest.skip("NOT SHOWN HERE: keys given by an access list, since there is no setfacl (package acl)")
    await here.put_credentials(OWNER, "client", ENDS["client"])
    folder = Path(await here.put_credentials(OWNER, "client", ENDS["client"], qemu))

    assert of(folder.parent) == of(folder) == (0, 0o711)
    assert within(folder) == files("client", 0, 0o640)
    for path in (folder / name for name in within(folder)):
        assert path.stat().st_gid == (QEMU if way == "by a group" else 0)
        assert does(QEMU, "cat", str(path))
        assert not does(QEMU, "sh", "-c", f": >> {path}")
        assert not does(QEMU, "mv", str(path), str(folder / "other"))
        assert not does(OTHER, "cat", str(path))
    assert not does(QEMU, "ln", "-s", "/etc/passwd", str(folder / "server-key.pem"))
    assert not does(QEMU, "ls", str(folder))


@root
async def test_keys_are_given_to_no_group_that_others_are_in(
    here: PlainHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks("setfacl", tmp_path, monkeypatch)
    with process(pwd.getpwnam("nobody").pw_gid) as running:
        with pytest.raises(HostError, match=f"others than user {QEMU}") as raised:
            await here.put_credentials(OWNER, "client", ENDS["client"], running.pid)
        running.kill()

    assert "acl" in raised.value.remedy
    assert not there(Path("/run/godwit-tls") / OWNER)


@root
@pytest.mark.parametrize("planted", ["the folder", "a link in place of the folder", "a folder in place of a file"])
async def test_what_somebody_else_has_planted_is_neither_followed_nor_kept(
    here: PlainHost, victim: Path, planted: str
) -> None:
    folder = Path("/run/godwit-tls") / OWNER
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    if planted == "a link in place of the folder":
        folder.symlink_to(victim)
    elif planted == "a folder in place of a file":
        (folder / "client-key.pem").mkdir(parents=True)
    else:
        folder.mkdir()
        for name in ("client-key.pem", ".client-key.pem", "ca-cert.pem", ".ca-cert.pem"):
            (folder / name).symlink_to(victim / "file")
    os.chown(folder, QEMU, QEMU, follow_symlinks=False)
    assert Path(await here.put_credentials(OWNER, "client", ENDS["client"])) == folder

    assert of(folder) == (0, 0o700)
    assert within(folder) == files("client", 0)
    assert list(within(victim)) == ["file"]
    assert (victim / "file").read_text() == "as it was"


@root
async def test_a_link_is_removed_and_not_followed(here: PlainHost, victim: Path) -> None:
    folder = Path(await here.put_credentials(OWNER, "client", ENDS["client"]))
    (folder / "more").symlink_to(victim)
    await here.remove_credentials(OWNER)

    assert not there(folder)
    assert there(victim / "file")


async def test_keys_that_cannot_be_removed_are_said_to_be_left(
    here: PlainHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = await here.put_credentials(OWNER, "client", ENDS["client"])
    with monkeypatch.context() as patched:
        lacks("rm", tmp_path, patched)
        for removal in (here.remove_credentials(OWNER), here.end_transfer(OWNER)):
            with pytest.raises(HostError, match=r"left.*Operation not supported"):
                await removal
    await here.remove_credentials(OWNER)

    assert not there(Path(folder))
