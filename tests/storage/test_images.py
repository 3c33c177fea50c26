"""Images described and made: what qemu-img says, and the scripts on this machine with a stand-in for it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from godwit.errors import BusyError, HostError, HypervisorError, InputError
from godwit.model import ImageFacts, PlaceFacts
from godwit.storage import images

if TYPE_CHECKING:
    from pathlib import Path

QCOW2: dict[str, Any] = {
    "virtual-size": 10 << 30,
    "actual-size": 1 << 20,
    "cluster-size": 65536,
    "format": "qcow2",
    "format-specific": {
        "type": "qcow2",
        "data": {"compat": "1.1", "refcount-bits": 16, "lazy-refcounts": False, "compression-type": "zlib"},
    },
}
STAND_IN = """#!/bin/sh
[ -z "$REFUSES" ] || { echo "$REFUSES" >&2; exit 1; }
while [ "$1" != -- ]; do shift; done
[ -z "$FALLS" ] || kill -"$FALLS" $$
echo made > "$2"
"""


def told(**changes: object) -> str:
    return "image\n" + json.dumps(QCOW2 | changes)


def data(**changes: object) -> dict[str, object]:
    return {"format-specific": {"type": "qcow2", "data": QCOW2["format-specific"]["data"] | changes}}


def test_an_image_is_described_with_what_another_of_its_kind_needs() -> None:
    facts = images.parse_info(told(), "/images/a.qcow2", "host1")
    assert facts == ImageFacts(
        "/images/a.qcow2",
        "qcow2",
        10 << 30,
        1 << 20,
        options=(("cluster_size", "65536"), ("compat", "1.1")),
    )
    assert images.create_arguments(facts) == (
        *("-f", "qcow2", "-o", "cluster_size=65536,compat=1.1"),
        *("--", "/images/a.qcow2", str(10 << 30)),
    )


def test_an_overlay_names_what_it_rests_on() -> None:
    backing = {"full-backing-filename": "/images/base.raw", "backing-filename": "base.raw"}
    facts = images.parse_info(told(**backing, **{"backing-filename-format": "raw"}), "/images/a.qcow2", "host1")
    assert (facts.backing, facts.backing_format) == ("/images/base.raw", "raw")
    assert images.create_arguments(facts)[4:8] == ("-b", "/images/base.raw", "-F", "raw")


def test_options_that_are_not_the_default_are_kept() -> None:
    changed = data(**{"lazy-refcounts": True, "extended-l2": True, "refcount-bits": 1, "compression-type": "zstd"})
    options = dict(images.parse_info(told(**changed), "/a", "host1").options)
    assert options["lazy_refcounts"] == options["extended_l2"] == "on"
    assert (options["refcount_bits"], options["compression_type"]) == ("1", "zstd")


def test_a_raw_image_needs_no_options() -> None:
    said = json.dumps({"virtual-size": 512, "actual-size": 0, "format": "raw"})
    facts = images.parse_info(f"image\n{said}", "/a.raw", "host1")
    assert images.create_arguments(facts) == ("-f", "raw", "--", "/a.raw", "512")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"snapshots": [{"id": "1", "name": "before"}]}, "it holds snapshots, which a copy would not have: before"),
        ({"encrypted": True}, "it is encrypted"),
        (data(**{"data-file": "other.raw"}), "its data is in another file: other.raw"),
        (data(corrupt=True), "it is marked as corrupt"),
        ({"format": "vmdk"}, "it is vmdk"),
    ],
)
def test_what_a_copy_would_not_have_is_refused_by_name(changes: dict[str, object], words: str) -> None:
    (refusal,) = images.parse_info(told(**changes), "/a", "host1").refusals
    assert refusal.startswith(words)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ("missing\n", HostError, "host1 has no qemu-img"),
        ("failed qemu-img: Could not open '/a': Image is corrupt\n", HypervisorError, "Image is corrupt"),
        ("image\nnot json", HypervisorError, "cannot be read"),
        ('image\n{"format": "raw"}', HypervisorError, "cannot be read"),
    ],
)
def test_what_cannot_be_described_says_why(said: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        images.parse_info(said, "/a", "host1")


def test_only_two_formats_can_be_made() -> None:
    with pytest.raises(InputError, match="vmdk"):
        images.create_arguments(ImageFacts("/a", "vmdk", 1, 1))


# -- the scripts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder for images, beside a stand-in for qemu-img."""
    program = tmp_path / "bin" / "qemu-img"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    folder = tmp_path / "my images"
    folder.mkdir()
    return folder


def run(here: Path, script: str, *arguments: str, **environment: str) -> str:
    path = f"{here.parent / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-s", "--", *arguments],
        input=f"set -u\n{script}",
        env={"PATH": path, "REFUSES": "", "FALLS": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def create(here: Path, image: Path, owner: str = "web-1", **environment: str) -> Exception | None:
    arguments = images.create_arguments(ImageFacts(str(image), "raw", 512, 0))
    said = run(here, images.CREATE, str(image), owner, *arguments, **environment)
    return images.creating_error("host2", str(image), said)


def names(here: Path) -> list[str]:
    return sorted(path.name for path in here.iterdir())


def test_an_image_is_its_makers_until_it_is_kept(here: Path) -> None:
    image = here / "a b.raw"
    assert create(here, image) is None
    assert len(names(here)) == 2
    run(here, images.REMOVE, str(image), "somebody-else")
    run(here, images.KEEP, str(image), "somebody-else")
    assert len(names(here)) == 2
    run(here, images.KEEP, str(image), "web-1")
    assert names(here) == ["a b.raw"]
    run(here, images.REMOVE, str(image), "web-1")
    assert names(here) == ["a b.raw"], "what was kept is the guest's"


def test_what_was_made_in_vain_is_removed(here: Path) -> None:
    image = here / "a.raw"
    assert create(here, image) is None
    for _ in range(2):
        run(here, images.REMOVE, str(image), "web-1")
        assert names(here) == []


def test_nothing_is_overwritten(here: Path) -> None:
    image = here / "a.raw"
    image.write_text("somebody's")
    error = create(here, image)
    assert isinstance(error, HostError)
    assert "is not overwritten" in str(error)
    assert (names(here), image.read_text()) == (["a.raw"], "somebody's")


def test_two_copies_to_one_place_do_not_meet(here: Path) -> None:
    image = here / "a.raw"
    assert create(here, image) is None
    assert isinstance(create(here, image, "web-2"), BusyError)
    assert image.read_text() == "made\n"


def test_a_mark_that_nobody_came_back_for_is_no_hindrance(here: Path) -> None:
    image = here / "a.raw"
    assert create(here, image, "dead") is None
    image.unlink()
    assert create(here, image) is None
    run(here, images.REMOVE, str(image), "dead")
    assert image.exists()


def test_a_program_that_refuses_leaves_nothing(here: Path) -> None:
    error = create(here, here / "a.raw", REFUSES="No space left on device")
    assert error is not None
    assert "No space left on device" in str(error)
    assert names(here) == []


def test_a_place_is_looked_at(here: Path) -> None:
    (here / "there.raw").touch()
    seen = images.parse_place(run(here, images.PLACE, str(here / "there.raw")))
    assert seen == PlaceFacts(
        exists=True, writable=True, available=seen.available, can_create=True, file_limit=seen.file_limit
    )
    assert seen.available
    gone = images.parse_place(run(here, images.PLACE, str(here / "no folder" / "a.raw")))
    assert gone == PlaceFacts(exists=False, writable=False, available=None, can_create=True), "qemu-img is there"


def test_a_limit_of_file_sizes_is_told_in_bytes(here: Path) -> None:
    limited = images.parse_place(run(here, f"ulimit -f 100\n{images.PLACE}", str(here / "a.raw")))
    assert limited.file_limit == 100 * 512
    if "unlimited" in run(here, "ulimit -f"):
        assert images.parse_place(run(here, images.PLACE, str(here / "a.raw"))).file_limit is None


def test_a_qemu_img_that_is_ended_by_a_signal_is_told(here: Path) -> None:
    error = create(here, here / "a.raw", FALLS="KILL")
    assert "ended by SIGKILL" in str(error)
    beyond = create(here, here / "a.raw", FALLS="XFSZ")
    assert "ended by SIGXFSZ" in str(beyond)
    assert isinstance(beyond, HostError)
    assert "ulimit -f" in beyond.remedy
    assert names(here) == []


@pytest.mark.parametrize("all_of_it", ["yes", "no"])
def test_a_digest_tells_files_apart(here: Path, all_of_it: str) -> None:
    one, two = here / "one", here / "two"
    content = bytearray(range(256)) * (40 << 12)
    for path in (one, two):
        path.write_bytes(content)
    same = run(here, images.DIGEST, str(one), all_of_it)
    assert run(here, images.DIGEST, str(two), all_of_it) == same
    for at in (0, 700_000, len(content) - 1):
        content[at] ^= 1
        two.write_bytes(content)
        assert run(here, images.DIGEST, str(two), all_of_it) != same
        content[at] ^= 1
