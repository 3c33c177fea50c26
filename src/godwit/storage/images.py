"""Disk images on a host: what one is, and making another of its kind for a copy, so that nobody else's is touched.

An image that a migration makes has a marker beside it with the migration's name, until it is the guest's own: only
what has the right marker is ever removed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from godwit.core.disks import STAMP_PREFIX
from godwit.errors import BusyError, GodwitError, HostError, HypervisorError, InputError
from godwit.model import ImageFacts, PlaceFacts
from godwit.plaintext import from_json, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS: Final = frozenset({"raw", "qcow2"})

_LARGEST: Final = 1 << 63
_SHOWN: Final = 200
_WORD: Final = re.compile(r"[a-z0-9.]{1,20}")
_LIMIT_UNIT: Final = 512
"""Bytes that `ulimit -f` counts in (POSIX, sh)."""

DELETE_SNAPSHOT: Final = r"""
command -v qemu-img > /dev/null || { echo "missing"; exit 0; }
if said=$(qemu-img snapshot -q -d "$2" -- "$1" 2>&1); then
    echo "deleted"
else
    echo "failed $said"
fi
"""
"""$1 is the image, $2 the name of a snapshot in it."""

INFO: Final = r"""
command -v qemu-img > /dev/null || { echo "missing"; exit 0; }
if said=$(qemu-img info --output=json --force-share ${2:+-f "$2"} -- "$1" 2>&1); then
    printf 'image\n%s\n' "$said"
else
    printf 'failed %s\n' "$said"
fi
"""
"""$1 is the image, $2 its format as QEMU has it: what a guest wrote into a raw disk must not be taken for a header.

Empty is the format only where the guest's command line leaves it to QEMU, too."""

PLACE: Final = r"""
path=$1
folder=${path%/*}
[ -n "$folder" ] || folder=/
if [ -e "$path" ] || [ -L "$path" ]; then echo "exists"; fi
if command -v qemu-img > /dev/null; then echo "qemu-img"; fi
[ -d "$folder" ] || exit 0
if [ -w "$folder" ]; then echo "folder"; fi
echo "available $(($(stat -f -c '%a * %S' -- "$folder")))"
echo "limit $(ulimit -f)"
"""
"""$1 is where an image is to be made."""

DIGEST: Final = r"""
path=$1 all=$2
size=$(stat -L -c %s -- "$path") || exit 1
if [ "$all" = yes ]; then
    sum=$(sha256sum < "$path") || exit 1
else
    # The head, where formats keep what they are, the tail, and as many places in between at even distances.
    step=$((size / 65536 / 256))
    [ "$step" -gt 0 ] || step=1
    sum=$({
        head -c 1048576 -- "$path"
        tail -c 1048576 -- "$path"
        at=0
        while [ $((at * 65536)) -lt "$size" ]; do
            dd if="$path" bs=65536 skip="$at" count=1 2>/dev/null
            at=$((at + step))
        done
    } | sha256sum) || exit 1
fi
echo "$size ${sum%% *}"
"""
"""$1 is a file, $2 says whether to read all of it; prints its size and a digest."""

_MARKER: Final = r"""
path=$1 owner=$2
marker=${path%/*}/.godwit-$(printf %s "${path##*/}" | cksum | tr ' ' -).copy
mine() { [ "$(cat -- "$marker" 2>/dev/null)" = "$owner" ]; }
"""

CLAIM: Final = (
    _MARKER
    + r"""
shift 2
# noclobber opens with O_EXCL: the name is ours from here on, or it was somebody's before. Only then comes the mark: one
# that outlived a crash of this host must never stand beside what is not ours. Not `:`, which ends the shell when its
# redirection fails, as a special built-in does.
set -C
if ! { printf '' > "$path"; } 2>/dev/null; then
    [ -e "$path" ] || { echo "refused $path"; exit 0; }
    [ -e "$marker" ] && echo "taken $marker" || echo "exists"
    exit 0
fi
set +C
if ! { printf '%s\n' "$owner" > "$marker"; } 2>/dev/null; then
    rm -f -- "$path"
    echo "refused $marker"
    exit 0
fi
"""
)
"""$1 is a file that is not there yet, $2 whose it is; makes it, empty and marked. What follows is for who goes on."""

CREATE: Final = (
    CLAIM
    + r"""
if said=$(qemu-img create -q "$@" 2>&1); then
    echo "created"
else
    status=$?
    rm -f -- "$path" "$marker"
    [ "$status" -le 128 ] || said="${said:+$said: }qemu-img was ended by SIG$(kill -l "$status")"
    echo "failed $said"
fi
"""
)
"""$1 is the image, $2 whose it is, what follows goes to `qemu-img create`."""

KEEP: Final = _MARKER + 'if mine; then rm -f -- "${marker%.copy}.left" && rm -f -- "$marker"; fi\n'
"""$1 is the image, $2 whose it is; what an earlier move left in its place is no left-over any more."""

REMOVE: Final = _MARKER + 'if mine; then rm -f -- "$path" && rm -f -- "$marker"; fi\n'


def parse_info(said: str, path: str, where: str) -> ImageFacts:
    """Read INFO's output. Raises HostError, HypervisorError with the mend."""
    word, _, rest = said.partition("\n")
    if word == "missing":
        message = f"{where} has no qemu-img, which copying a disk needs"
        raise HostError(message, remedy="install it there: the package qemu-utils, or the like")
    if word != "image":
        message = (
            f"qemu-img on {where} does not understand {path}: {word.partition(' ')[2] or said.strip()} {rest}".strip()
        )
        raise HypervisorError(message, remedy=f"qemu-img check {path}  (on {where})")
    try:
        return _facts(from_json(rest), path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"qemu-img on {where} says of {path} what cannot be read: {shortened(repr(error), _SHOWN)}"
        raise HypervisorError(message) from None


def _facts(said: Any, path: str) -> ImageFacts:  # noqa: ANN401 - JSON
    data = said.get("format-specific", {}).get("data", {})
    return ImageFacts(
        path=path,
        format=str(said["format"]),
        virtual_size=_bytes(said["virtual-size"]),
        allocated=_bytes(said.get("actual-size", 0)),
        backing=str(said.get("full-backing-filename") or said.get("backing-filename") or ""),
        backing_format=str(said.get("backing-filename-format", "")),
        options=tuple(_options(said, data)) if said["format"] == "qcow2" else (),
        refusals=tuple(_refusals(said, data)),
        stamps=tuple(_stamps(data)),
    )


def _options(said: dict[str, Any], data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "cluster_size", str(_bytes(said["cluster-size"]))
    yield "compat", _word(data["compat"])
    for key, option in (("lazy-refcounts", "lazy_refcounts"), ("extended-l2", "extended_l2")):
        if data.get(key):
            yield option, "on"
    if data.get("refcount-bits", 16) != 16:  # noqa: PLR2004 - qcow2's default, which old programs know no option for
        yield "refcount_bits", str(_bytes(data["refcount-bits"]))
    if data.get("compression-type", "zlib") != "zlib":
        yield "compression_type", _word(data["compression-type"])


def _bytes(value: object) -> int:
    """Return a size; raise ValueError for what none can be."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST:
        return value
    message = f"{value!r} is no size"
    raise ValueError(message)


def _word(value: object) -> str:
    """Return a word that goes into an option list, where a comma would begin another; raise ValueError."""
    if isinstance(value, str) and _WORD.fullmatch(value):
        return value
    message = f"{value!r} is no word of qemu-img's"
    raise ValueError(message)


def _refusals(said: dict[str, Any], data: dict[str, Any]) -> Iterator[str]:
    if said["format"] not in FORMATS:
        yield f"it is {said['format']}, and only raw and qcow2 images can be copied"
    if names := [str(one.get("name") or one.get("id")) for one in said.get("snapshots", ())]:
        yield f"it holds snapshots, which a copy would not have: {', '.join(names)}"
    if said.get("encrypted") or "encrypt" in data:
        yield "it is encrypted, and the key is not Godwit's"
    if data.get("data-file"):
        yield f"its data is in another file: {data['data-file']}"
    if data.get("corrupt"):
        yield "it is marked as corrupt"


def _stamps(data: dict[str, Any]) -> Iterator[str]:
    """Yield the handover stamps that were closed in order: "in-use" stays when QEMU died, or has the image open."""
    for one in data.get("bitmaps", ()):
        if str(one["name"]).startswith(STAMP_PREFIX) and "in-use" not in one.get("flags", ()):
            yield str(one["name"])


def parse_place(said: str) -> PlaceFacts:
    """Read PLACE's output."""
    words = dict(line.partition(" ")[::2] for line in said.splitlines())
    available = words.get("available")
    limit = words.get("limit", "")
    return PlaceFacts(
        exists="exists" in words,
        writable="folder" in words,
        available=int(available) if available is not None and available.isdecimal() else None,
        can_create="qemu-img" in words,
        file_limit=int(limit) * _LIMIT_UNIT if limit.isdecimal() else None,
    )


def create_arguments(image: ImageFacts) -> tuple[str, ...]:
    """Return what `qemu-img create` needs for an image of the same kind."""
    if image.format not in FORMATS:
        message = f"an image in the format {image.format!r} cannot be made"
        raise InputError(message)
    options = ",".join(f"{key}={value}" for key, value in image.options)
    backing = ("-b", image.backing, "-F", image.backing_format) if image.backing else ()
    rest = ("-o", options) if options else ()
    return ("-f", image.format, *rest, *backing, "--", image.path, str(image.virtual_size))


def creating_error(where: str, path: str, said: str) -> GodwitError | None:
    """Return what CREATE's output means: None where the image is there."""
    word, _, words = said.strip().partition(" ")
    if word == "created":
        return None
    if word == "exists":
        message = f"{where} has a file {path} already, and it is not overwritten"
        return HostError(message, remedy="move it away, if nobody needs it there")
    if word == "taken":
        return BusyError(f"another copy to {path} on {where} is under way", remedy=f"wait for it, or remove {words}")
    message = f"{where} cannot make {path}: {words or said.strip() or 'the shell said nothing'}"
    remedy = "see the folder's rights and the room on its disk"
    if "SIGXFSZ" in words or "File too large" in words:
        remedy = "raise the limit of file sizes there: that of the login (ulimit -f), or the file system's own"
    return HostError(message, remedy=remedy)
