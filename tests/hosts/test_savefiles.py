"""The files of saves: one suite over the simulator and over real files of this machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from godwit.core.saves import CHUNK, SEAL_AT, STREAM_AT, part_of, status_of
from godwit.errors import HostError
from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock
from godwit.hosts.fakesaves import FakeSave
from godwit.hosts.local import LocalTransport
from godwit.hosts.savefiles import PlainSaveFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.ports import SaveFiles


@dataclass(frozen=True, slots=True)
class Desk:
    """What is to be tried; `put` lets a stream of so many bytes be in a file, `disk` is a file that a guest has."""

    files: SaveFiles
    path: str
    disk: str
    put: Callable[[str, int], None]
    exists: Callable[[str], bool]

    @property
    def part(self) -> str:
        return part_of(self.path, "web-s1")


@pytest.fixture(params=["plain", "simulated"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    if request.param == "plain":
        disk = tmp_path / "it's a disk"
        disk.write_bytes(b"12345")

        def put(path: str, size: int) -> None:
            with Path(path).open("r+b") as file:
                file.seek(STREAM_AT)
                file.write(b"s" * size)

        files: SaveFiles = PlainSaveFiles(LocalTransport("here"))
        return Desk(files, str(tmp_path / "a 'guest'"), str(disk), put, os.path.exists)
    world = FakeWorld(LoopClock(speed=100))
    host = FakeHost(world, "one")
    world.add_file("/disk", size=5)

    def grow(path: str, size: int) -> None:
        world.saves[path].stream = size

    return Desk(host.saves, "/f", "/disk", grow, world.saves.__contains__)


async def whole(desk: Desk, size: int = 1000) -> None:
    await desk.files.begin(desk.path, desk.part, "")
    desk.put(desk.part, size)
    await desk.files.complete(desk.path, desk.part, b"header")


async def test_a_file_appears_when_it_is_whole(desk: Desk) -> None:
    await desk.files.begin(desk.path, desk.part, "")
    assert (desk.exists(desk.path), desk.exists(desk.part)) == (False, True)
    desk.put(desk.part, 1000)
    length, (state,) = await desk.files.measure(desk.part, [desk.disk])
    assert (length, state.path, state.size) == (STREAM_AT + 1000, desk.disk, 5)
    await desk.files.complete(desk.path, desk.part, b"header")
    assert (desk.exists(desk.path), desk.exists(desk.part)) == (True, False)
    await desk.files.seal(desk.path, b"seal")
    length, head = await desk.files.head(desk.path)
    assert length == STREAM_AT + 1000
    assert len(head) == STREAM_AT
    assert head.startswith(b"header\0")
    assert head[SEAL_AT : SEAL_AT + 5] == b"seal\0"


async def test_nothing_is_overwritten(desk: Desk) -> None:
    await whole(desk)
    with pytest.raises(HostError, match="is not overwritten"):
        await desk.files.begin(desk.path, desk.part, "")
    assert not desk.exists(desk.part)
    second = part_of(desk.path, "web-s2")
    await desk.files.begin(f"{desk.path}2", second, "")
    with pytest.raises(HostError, match="is not overwritten"):
        await desk.files.complete(desk.path, second, b"another")
    assert (await desk.files.head(desk.path))[1].startswith(b"header")
    assert desk.exists(second)
    for _ in range(2):
        await desk.files.discard(second)
    assert not desk.exists(second)


async def test_a_file_that_is_not_there(desk: Desk) -> None:
    with pytest.raises(HostError, match="there is no"):
        await desk.files.head(desk.path)
    assert await desk.files.disks([f"{desk.disk}2", desk.disk]) == (None, (await desk.files.disks([desk.disk]))[0])
    await desk.files.begin(desk.path, desk.part, "")
    with pytest.raises(HostError, match="not to be seen"):
        await desk.files.measure(desk.part, [f"{desk.disk}2"])


async def test_the_digest_of_a_chunk_is_that_of_its_content(desk: Desk) -> None:
    await whole(desk)
    first = await desk.files.chunk_sum(desk.path, 0)
    assert first == await desk.files.chunk_sum(desk.path, 0)
    desk.put(desk.path, 1001)
    assert first != await desk.files.chunk_sum(desk.path, 0)


# -- real files alone ----------------------------------------------------------------------------------------------


@pytest.fixture
def plain() -> PlainSaveFiles:
    return PlainSaveFiles(LocalTransport("here"))


async def test_chunks_meet_without_a_gap(plain: PlainSaveFiles, tmp_path: Path) -> None:
    file = tmp_path / "f"
    with file.open("wb") as opened:
        opened.truncate(STREAM_AT + CHUNK)
        opened.seek(STREAM_AT + CHUNK - 1)
        opened.write(b"ab")
    assert await plain.chunk_sum(str(file), 1) == hashlib.blake2b(b"b", digest_size=32).hexdigest()
    assert await plain.chunk_sum(str(file), 2) == hashlib.blake2b(b"", digest_size=32).hexdigest()


async def test_a_disk_s_time_is_known_to_the_nanosecond(plain: PlainSaveFiles, tmp_path: Path) -> None:
    disk = tmp_path / "d"
    disk.write_bytes(b"x")
    os.utime(disk, ns=(1, 1_700_000_000_000_000_042))
    (state,) = await plain.disks([str(disk)])
    assert state is not None
    assert state.changed == 1_700_000_000_000_000_042
    (folder,) = await plain.disks([str(tmp_path)])
    assert folder is None


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def wrote(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


async def test_what_a_program_tells(plain: PlainSaveFiles, tmp_path: Path) -> None:
    part = str(tmp_path / "p")
    assert await plain.program_ended(part) == ""
    told = wrote(Path(status_of(part)), "")
    assert await plain.program_ended(part) == ""
    wrote(told, "1\n")
    assert await plain.program_ended(part) == "1"
    await plain.discard(part)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "program", "words"),
    [
        ("nowhere/f", "", "has no folder"),
        ("f", "no-such-program", "has no no-such-program"),
        ("proc", "", "cannot make"),
    ],
)
async def test_what_keeps_a_file_from_being_made(
    plain: PlainSaveFiles, tmp_path: Path, path: str, program: str, words: str
) -> None:
    file = "/proc/f" if path == "proc" else str(tmp_path / path)
    with pytest.raises(HostError, match=words):
        await plain.begin(file, f"{file}.part", program)
    assert names(tmp_path) == []


async def test_a_folder_is_no_save(plain: PlainSaveFiles, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is no file"):
        await plain.head(str(tmp_path))


def test_a_simulated_file_begins_empty() -> None:
    assert FakeSave().length == STREAM_AT
