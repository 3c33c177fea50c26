"""Images that guests left behind when they moved away: what marks them, and what proves that nobody touched them since.

The mark lies beside the image. It names the guest, the handover stamp (see godwit.core.disks), and for the image and
each file that it rests on what changes with every write: inode, size, and the times of the last change of content and
of state, to the nanosecond. The last of these (ctime, see inode(7)) no program can set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, HypervisorError
from godwit.model import OlderCopy

if TYPE_CHECKING:
    from godwit.model import ImageFacts

_NEIGHBOURS: Final = r"""
path=$1
neighbour=${path%/*}/.godwit-$(printf %s "${path##*/}" | cksum | tr ' ' -)
left=$neighbour.left marker=$neighbour.copy
identity() { stat -L -c '%i:%s:%.9Y:%.9Z' -- "$1"; }
# A mark that was half written when its host lost power must not be found.
write_left() { sync -- "$left.new" && mv -f -- "$left.new" "$left"; }
untouched() {
    first=$path
    while IFS= read -r line; do
        case $line in "file "*) ;; *) continue ;; esac
        line=${line#file }
        [ "$(identity "${line#* }" 2>/dev/null)" = "${line%% *}" ] || return 1
        [ -z "$first" ] || [ "${line#* }" = "$first" ] || return 1
        first=
    done < "$left"
    [ -z "$first" ]
}
"""

LEAVE: Final = (
    _NEIGHBOURS
    + r"""
vm=$2 stamp=$3
shift 3
# Of a block device no time tells that it was written to, and of a link only the link would be removed.
if [ -L "$path" ] || [ ! -f "$path" ]; then echo "$path is no plain file" >&2; exit 1; fi
# What QEMU wrote may be in memory still; the times are taken when it is on the disk.
sync -- "$@" || exit 1
{
    printf 'vm %s\nstamp %s\n' "$vm" "$stamp"
    for one; do
        seen=$(identity "$one") || exit 1
        printf 'file %s %s\n' "$seen" "$one"
    done
} > "$left.new" && write_left
"""
)
"""$1 is the image, $2 its guest, $3 the stamp (may be empty), what follows are the image and all that it rests on."""

FIND: Final = (
    _NEIGHBOURS
    + r"""
[ -f "$left" ] || exit 0
grep -v '^file ' -- "$left"
untouched && echo "unchanged yes" || echo "unchanged no"
"""
)
"""$1 is the image; prints what its mark says, and whether that still fits."""

CLAIM: Final = (
    _NEIGHBOURS
    + r"""
owner=$2
[ -f "$left" ] && untouched || { echo "changed"; exit 0; }
set -C
{ printf '%s\n' "$owner" > "$marker"; } 2>/dev/null || { echo "taken $marker"; exit 0; }
echo "claimed"
"""
)
"""$1 is the image, $2 the migration that is to write to it."""

GIVE_BACK: Final = (
    _NEIGHBOURS
    + r"""
[ "$(cat -- "$marker" 2>/dev/null)" = "$2" ] && [ -f "$left" ] || exit 0
sync -- "$path" || exit 1
while IFS= read -r line; do
    case $line in
        "file "*)
            one=${line#file }
            one=${one#* }
            seen=$(identity "$one") || exit 1
            printf 'file %s %s\n' "$seen" "$one"
            ;;
        resumed*) ;;
        *) printf '%s\n' "$line" ;;
    esac
done < "$left" > "$left.new" && echo "resumed yes" >> "$left.new" && write_left && rm -f -- "$marker"
"""
)
"""$1 is the image, $2 the migration that had claimed it."""

DISCARD: Final = (
    _NEIGHBOURS
    + r"""
if [ -f "$left" ] && untouched; then rm -f -- "$path" && rm -f -- "$left"; fi
"""
)
"""$1 is the image."""


def parse_found(said: str, image: ImageFacts | None) -> OlderCopy | None:
    """Read FIND's output; None where nothing was left behind."""
    values = dict(line.partition(" ")[::2] for line in said.splitlines())
    if "vm" not in values:
        return None
    return OlderCopy(
        vm=values["vm"],
        stamp=values.get("stamp", ""),
        unchanged=values.get("unchanged") == "yes",
        image=image,
        resumed=values.get("resumed") == "yes",
    )


def claiming_error(where: str, path: str, said: str) -> HostError | None:
    """Return what CLAIM's output means: None where the image is the migration's."""
    word, _, words = said.strip().partition(" ")
    if word == "claimed":
        return None
    if word == "taken":
        return HostError(f"another copy to {path} on {where} is under way", remedy=f"wait for it, or remove {words}")
    message = f"{path} on {where} has changed since the guest left it there"
    return HostError(message, remedy="migrate again: it is looked at anew then")


def next_below(image: ImageFacts) -> tuple[str, str] | None:
    """Return path and format of an image's backing file, None where it has none. Raises HypervisorError."""
    if not image.backing:
        return None
    if not image.backing_format:
        message = f"{image.path} does not say in which format its backing file {image.backing} is"
        raise HypervisorError(message, remedy="qemu-img rebase -u -F FORMAT, while its guest is off")
    return image.backing, image.backing_format
