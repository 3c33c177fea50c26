"""Which snapshots are whole, which names they may have, and where memory is kept: tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core import snapshots
from godwit.core.snapshots import DiskSnapshots, ImageSnapshot
from godwit.errors import GodwitError, InputError, InvalidNameError, RefusedError, UnknownSnapshotError


def entry(tag: str, state: int = 0, taken: float = 1.0) -> ImageSnapshot:
    return ImageSnapshot(tag, "1", taken, 2.0, state)


def disk(name: str, *entries: ImageSnapshot, kind: str = "qcow2", read_only: bool = False) -> DiskSnapshots:
    return DiskSnapshots(name, f"/{name}", kind, read_only, f"node-{name}", entries)


TWO = (disk("a", entry("old", 5), entry("half", 7, 3.0)), disk("b", entry("old"), entry("disks", 0, 2.0)))


def test_a_snapshot_is_whole_where_it_is_on_all_writable_disks_and_has_memory() -> None:
    found = {one.tag: one for one in snapshots.catalogue((*TWO, disk("cd", read_only=True)))}
    assert list(found) == ["old", "disks", "half"]
    assert {tag: one.complete for tag, one in found.items()} == {"old": True, "disks": False, "half": False}
    assert found["half"].lacks == "it is not on b"
    assert found["disks"].lacks == "it is not on a"
    assert snapshots.catalogue((disk("a", entry("x")),))[0].lacks == "it holds disks alone, no memory"


def test_memory_is_looked_for_where_it_is_and_kept_on_the_first_writable_disk() -> None:
    disks = (disk("cd", kind="raw", read_only=True), disk("a", entry("t")), disk("b", entry("t", 9)))
    assert snapshots.state_node(disks) == "node-a"
    assert snapshots.state_node(disks, "t") == "node-b"
    assert snapshots.nodes(disks) == ("node-a", "node-b")
    assert [one.name for one in snapshots.holders(TWO, "half")] == ["a"]


@pytest.mark.parametrize(
    ("disks", "words"),
    [
        ((), "no writable disk"),
        ((disk("cd", read_only=True),), "no writable disk"),
        ((disk("a"), disk("b", kind="raw")), r"b \(/b\) is raw"),
        ((disk("a"), disk("pflash1", kind="raw")), "pflash1"),
        ((disk("a", kind="qed"),), "only qcow2"),
    ],
)
def test_disks_that_cannot_are_named(disks: tuple[DiskSnapshots, ...], words: str) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        snapshots.refuse_unfit("web1", disks)
    assert refused.value.remedy


def test_read_only_media_are_left_out() -> None:
    snapshots.refuse_unfit("web1", (disk("a"), disk("cd", kind="raw", read_only=True)))


@pytest.mark.parametrize(
    ("tag", "error"),
    [
        ("1", InvalidNameError),
        ("0042", InvalidNameError),
        ("", InvalidNameError),
        ("-a", InvalidNameError),
        ("a b", InvalidNameError),
        ("a\n", InvalidNameError),
        ("a/b", InvalidNameError),
        ("é", InvalidNameError),
        ("x" * 65, InvalidNameError),
        ("old", InputError),
        ("half", InputError),
    ],
)
def test_names_that_a_new_snapshot_cannot_have(tag: str, error: type[GodwitError]) -> None:
    with pytest.raises(error):
        snapshots.new_tag(tag, snapshots.catalogue(TWO))


@pytest.mark.parametrize("tag", ["my_tag", "1a", "v1.2", "_", "x" * 64, "a-b"])
def test_names_that_it_can_have(tag: str) -> None:
    assert snapshots.new_tag(tag, snapshots.catalogue(TWO)) == tag


@given(st.text(max_size=80))
def test_no_name_is_both_new_and_a_number_of_qemu_s(tag: str) -> None:
    try:
        taken = snapshots.new_tag(tag, ())
    except InvalidNameError:
        return
    assert not taken.isdigit()
    assert taken.isascii()


@pytest.mark.parametrize(
    ("tag", "error", "words"),
    [
        ("new", UnknownSnapshotError, "it has: old, disks, half"),
        ("half", RefusedError, "it is not on b"),
        ("disks", RefusedError, "it is not on a"),
    ],
)
def test_what_cannot_be_gone_back_to(tag: str, error: type[GodwitError], words: str) -> None:
    with pytest.raises(error, match=words):
        snapshots.whole_tag("web1", tag, snapshots.catalogue(TWO))


def test_a_number_that_somebody_else_gave_is_left_to_them() -> None:
    with pytest.raises(InvalidNameError):
        snapshots.known_tag("web1", "7", snapshots.catalogue((disk("a", entry("7", 1)),)))
