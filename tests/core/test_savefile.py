"""The description in front of a saved guest, and the ways in which it is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.savefile import (
    DiskState,
    Header,
    Seal,
    chunks,
    decode_header,
    decode_seal,
    differing,
    encode_header,
    encode_seal,
)
from godwit.core.saves import (
    CHUNK,
    SEAL_AT,
    STREAM_AT,
    Compression,
    Job,
    Step,
    Way,
    Work,
    afterwards,
    another_way,
    capabilities,
    checked_path,
    incoming,
    outgoing,
    parameters,
    ways,
)
from godwit.errors import InputError, SaveFileError
from godwit.model import Features, Launch, Tap, Vm

DISK: Final = DiskState("/mnt/images/web1.qcow2", 1 << 30, 1_700_000_000_123_456_789)
HEADER: Final = Header(
    id="web1-s01234567",
    vm=Vm("web1", "host1", Launch(("qemu-system-x86_64", "-m", "512"), taps=(Tap("tap0", "br0"),)), "/run/web1.sock"),
    machine="pc-q35-10.0",
    qemu_version=(10, 0, 2),
    accelerator="kvm",
    memory=512 << 20,
    way=Way.MAPPED,
    running=True,
    saved_at=1_700_000_000.5,
    length=STREAM_AT + CHUNK + 1,
    disks=(DISK,),
)
SEAL: Final = Seal(HEADER.id, ("0" * 64, "1" * 64), ((DISK.path, "12 abc"),))
NEW: Final = Features(
    frozenset(), frozenset({"events", "multifd", "mapped-ram", "xbzrle"}), frozenset({"direct-io", "max-bandwidth"})
)
OLD: Final = Features(frozenset(), frozenset({"events", "multifd", "xbzrle"}), frozenset({"max-bandwidth"}))


def head(header: Header = HEADER, seal: Seal | None = SEAL) -> bytes:
    text = bytearray(STREAM_AT)
    encoded = encode_header(header)
    text[: len(encoded)] = encoded
    if seal is not None:
        encoded = encode_seal(seal)
        text[SEAL_AT : SEAL_AT + len(encoded)] = encoded
    return bytes(text)


def test_what_is_written_is_read() -> None:
    assert decode_header(head(), HEADER.length, "f") == HEADER
    assert decode_seal(head(), HEADER, "f") == SEAL
    assert decode_seal(head(seal=None), HEADER, "f") is None


@given(st.integers(0, len(encode_header(HEADER)) - 1), st.integers(1, 255))
def test_a_header_with_another_byte_is_never_taken(place: int, change: int) -> None:
    text = bytearray(head())
    text[place] ^= change
    if place == len(encode_header(HEADER)) - 1:
        return  # the newline after it belongs to nothing
    with pytest.raises(SaveFileError):
        decode_header(bytes(text), HEADER.length, "f")


@given(st.integers(0, len(encode_seal(SEAL)) - 2), st.integers(1, 255))
def test_a_seal_with_another_byte_is_never_taken(place: int, change: int) -> None:
    text = bytearray(head())
    text[SEAL_AT + place] ^= change
    with pytest.raises(SaveFileError):
        decode_seal(bytes(text), HEADER, "f")


@given(st.binary(max_size=4096), st.integers(0, 1 << 40))
def test_nonsense_is_no_save(text: bytes, length: int) -> None:
    with pytest.raises(SaveFileError):
        decode_header(text, length, "f")


@pytest.mark.parametrize(
    ("text", "length", "words"),
    [
        (b"", 0, "is no save"),
        (b"\x7fELF", 4, "is no save"),
        (head(), HEADER.length - 1, "cut off"),
        (head(), HEADER.length + 1, "not as it was written"),
        (head()[:100], HEADER.length, "damaged"),
        (head().replace(b"GODWIT-SAVE 1", b"GODWIT-SAVE 2"), HEADER.length, "of format 2"),
    ],
)
def test_what_is_wrong_is_said(text: bytes, length: int, words: str) -> None:
    with pytest.raises(SaveFileError, match=words) as refused:
        decode_header(text, length, "/f")
    assert "/f" in refused.value.message
    assert refused.value.remedy


def test_a_seal_of_another_save_is_not_taken() -> None:
    for other in (replace(SEAL, id="db-s1"), replace(SEAL, sums=SEAL.sums[:1])):
        with pytest.raises(SaveFileError, match="another save"):
            decode_seal(head(seal=other), HEADER, "f")


def test_a_description_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SaveFileError, match="has room for"):
        encode_header(replace(HEADER, vm=replace(HEADER.vm, source_text="x" * SEAL_AT)))


@pytest.mark.parametrize(("stream", "number"), [(0, 0), (1, 1), (CHUNK, 1), (CHUNK + 1, 2)])
def test_every_byte_of_the_stream_is_in_a_chunk(stream: int, number: int) -> None:
    assert chunks(STREAM_AT + stream) == number


def test_a_disk_that_differs_is_named_with_both_identities() -> None:
    assert differing(DISK, DISK, "host2") == ""
    assert differing(DISK, None, "host2") == f"host2 has no {DISK.path}"
    later = replace(DISK, changed=DISK.changed + 1000)
    words = differing(DISK, later, "host2")
    assert str(DISK) in words
    assert str(later) in words
    assert str(DISK) != str(later)


# -- ways ----------------------------------------------------------------------------------------------------------


def test_ways_follow_from_what_qemu_knows() -> None:
    assert ways(NEW, None) == (Way.MAPPED, Way.MAPPED_BUFFERED, Way.FILE, Way.PIPE)
    assert ways(replace(NEW, parameters=frozenset()), None) == (Way.MAPPED_BUFFERED, Way.FILE, Way.PIPE)
    assert ways(OLD, None) == (Way.FILE, Way.PIPE)
    for compression in Compression:
        assert ways(NEW, compression) == (Way(compression.value),), "never together with mapped-ram"


def test_nothing_is_set_that_qemu_does_not_know_and_nothing_disturbing_stays_on() -> None:
    assert capabilities(Way.MAPPED, NEW) == {"events": True, "mapped-ram": True, "multifd": True, "xbzrle": False}
    assert capabilities(Way.FILE, NEW) == {"events": True, "mapped-ram": False, "multifd": False, "xbzrle": False}
    assert capabilities(Way.PIPE, OLD) == {"events": True, "multifd": False, "xbzrle": False}
    assert afterwards(NEW) == {"mapped-ram": False, "multifd": False}
    assert parameters(Way.MAPPED, NEW)["direct-io"] is True
    assert parameters(Way.MAPPED_BUFFERED, NEW)["direct-io"] is False
    assert "direct-io" not in parameters(Way.PIPE, OLD)


def test_uris() -> None:
    assert outgoing(Way.MAPPED, "/a/f.part") == "file:/a/f.part,offset=0x100000"
    assert incoming(Way.FILE, "/a/f") == "file:/a/f,offset=0x100000"
    assert outgoing(Way.ZSTD, "/a/it's") == ("""exec:zstd -q -1 -c >> '/a/it'"'"'s'; echo $? > '/a/it'"'"'s.status'""")
    assert incoming(Way.GZIP, "/a/f") == "exec:tail -c +1048577 -- /a/f | gzip -d -c"


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("QEMU of web refused `migrate`: unknown migration protocol: file:/a", True),
        ("Unable to open file with O_DIRECT: Invalid argument", True),
        ("No space left on device", False),
        ("Could not create '/a/b': Permission denied", False),
    ],
)
def test_another_way_is_tried_only_where_this_one_does_not_exist(words: str, other: bool) -> None:  # noqa: FBT001
    assert another_way(words) is other


@pytest.mark.parametrize("path", ["web.save", "", "/a/b,offset=3", "/a/b\n", "/a/", "/", "/a/..", "/" + "x" * 2000])
def test_paths_that_cannot_be_meant(path: str) -> None:
    with pytest.raises(InputError) as refused:
        checked_path(path)
    assert refused.value.remedy


def test_a_path_is_made_plain() -> None:
    assert checked_path("/a//b/../c") == "/a/c"


def test_a_job_s_steps_take_time() -> None:
    job = Job("i", Work.SAVE, "web1", "host1", "/f", 1.0)
    job = job.at(Step.WRITING, 2.0).at(Step.HANDING, 4.0).at(Step.CHECKING, 4.5).at(Step.DONE, 7.0)
    assert job.seconds(Step.WRITING, Step.HANDING) == 2.5
    assert job.seconds(Step.CHECKING) == 2.5
    assert (job.percent, job.finished) == (0.0, True)
