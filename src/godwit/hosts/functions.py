"""PCI network functions of a host that guests can be given: looked at, taken for one and given back, over sysfs.

Rests on the kernel's sysfs-bus-pci (driver_override, drivers_probe, sriov_numvfs, virtfnN) and on ip-link(8) for the
MAC and VLAN of a virtual function. Each script takes a folder as $1 in which it finds sys and run; "" is the host's.
What a guest was given stands in a file per function below run, written before anything is changed, with the driver, MAC
and VLAN that were before (`-` where none was, or none is changed): it is gone with the host's boot, as the binding is.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from godwit.errors import BusyError, HostError, InputError
from godwit.hosts.shell import run_script, words_of
from godwit.model import PciFunction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.errors import GodwitError
    from godwit.hosts.shell import Runs

ADDRESS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
BIND_DEADLINE: Final = 30.0
"""Seconds that binding a function may take: its driver resets it."""

_COMMON: Final = r"""
root=$1
shift
pci=$root/sys/bus/pci
place=$root/run
if [ -z "$root" ]; then place=$(runtime) || { echo "no-place"; exit 1; }; fi
place=$place/functions
last() { readlink "$1" 2>/dev/null | sed 's,.*/,,'; }
content() { { read -r said < "$1"; } 2>/dev/null && printf '%s' "$said"; }
record() { content "$place/$1"; }
# Whether a process has a function's group open, or the function itself (iommufd); looked at once, where that matters.
is_open() {
    [ -n "$looked" ] || opened=$(ls -l "$root"/proc/[0-9]*/fd 2>/dev/null |
        grep -o '/dev/vfio/[0-9]*$\|/dev/vfio/devices/vfio[0-9]*$' | sort -u)
    looked=yes
    mine=
    for one in "$1"/vfio-dev/vfio*; do [ -e "$one" ] && mine=/dev/vfio/devices/${one##*/}; done
    for one in $opened; do
        [ "$one" = "/dev/vfio/$(last "$1/iommu_group")" ] && return 0
        [ "$one" = "$mine" ] && return 0
    done
    return 1
}
looked=
is_up() {
    for net in "$1"/net/* "$1"/virtio*/net/*; do
        [ -e "$net/flags" ] || continue
        flags=$(content "$net/flags")
        [ $((flags & 1)) = 0 ] || return 0
    done
    return 1
}
number_of() {
    for link in "$1"/physfn/virtfn*; do
        [ "$(last "$link")" = "$2" ] && { printf '%s' "${link##*virtfn}"; return 0; }
    done
    return 1
}
"""

LIST: Final = (
    _COMMON
    + r"""
for device in "$pci"/devices/*; do
    [ -e "$device/class" ] || continue
    case $(content "$device/class") in 0x02*) ;; *) continue ;; esac
    address=${device##*/}
    names=
    for net in "$device"/net/* "$device"/virtio*/net/*; do
        [ -e "$net" ] && names="$names,${net##*/}"
    done
    up=no
    is_up "$device" && up=yes
    number=
    [ -e "$device/physfn" ] && number=$(number_of "$device" "$address")
    driver=$(last "$device/driver")
    held=no
    [ "$driver" = vfio-pci ] && is_open "$device" && held=yes
    vfs=$(content "$device/sriov_numvfs")
    printf '%s|' "$address" "$(content "$device/vendor")" "$(content "$device/device")" "$driver" \
        "$(last "$device/iommu_group")" "${names#,}" "$up" "$(last "$device/physfn")" "$number" \
        "$vfs" "$(content "$device/sriov_totalvfs")" "$(record "$address")" "$held"
    echo
    if [ "${vfs:-0}" -gt 0 ] 2>/dev/null && [ -n "$names" ]; then
        name=${names#,}
        printf 'vfs|%s|' "$address"
        ip -j link show dev "${name%%,*}" 2>/dev/null | tr -d '\n'
        echo
    fi
done
"""
)

_DRIVERS: Final = r"""
# A driver may probe in the background: look every 20 ms, for three seconds.
bound_to() {
    left=150
    until [ "$(last "$1/driver")" = "$2" ]; do
        [ $left -gt 0 ] || return 1
        left=$((left - 1))
        sleep 0.02
    done
}
unbind() {
    [ -e "$1/driver" ] || return 0
    { echo "${1##*/}" > "$1/driver/unbind"; } 2>/dev/null
    bound_to "$1" ""
}
find_vf() {
    [ -e "$device/physfn" ] || return 1
    for net in "$device"/physfn/net/*; do
        [ -e "$net" ] && break
    done
    [ -e "$net" ] || return 1
    number=$(number_of "$device" "$address") || { echo "no-number $address"; exit 1; }
}
# Its MAC and VLAN as the host has set them: "MAC VLAN".
addressed_vf() {
    said=$(ip link show dev "${net##*/}" 2>/dev/null | grep "^ *vf $number ")
    is=$(printf '%s' "$said" | sed -n 's,.*\(link/ether\|MAC\) \([0-9a-fA-F:]*\).*,\2,p')
    tag=$(printf '%s' "$said" | sed -n 's/.* vlan \([0-9]*\).*/\1/p')
    printf '%s %s' "${is:-00:00:00:00:00:00}" "${tag:-0}"
}
address_vf() {
    find_vf || return 0
    said=$(ip link set dev "${net##*/}" vf "$number" mac "$1" 2>&1) &&
        said=$(ip link set dev "${net##*/}" vf "$number" vlan "$2" 2>&1) || {
        echo "no-address $address ${net##*/} $said"
        exit 1
    }
}
"""

TAKE: Final = (
    _COMMON
    + _DRIVERS
    + r"""
address=$1 vm=$2 mac=$3 vlan=$4
device=$pci/devices/$address
[ -e "$device/vendor" ] || { echo "absent $address"; exit 1; }
[ -e "$pci/drivers/vfio-pci" ] || { echo "no-vfio $address"; exit 1; }
[ -e "$device/iommu_group" ] || { echo "no-iommu $address"; exit 1; }
held=$(record "$address")
holder=${held%% *}
if [ -n "$holder" ] && [ "$holder" != "$vm" ]; then echo "held $address $holder"; exit 1; fi
if [ -z "$holder" ]; then
    is_up "$device" && { echo "in-use $address"; exit 1; }
    [ "$(content "$device/sriov_numvfs")" -gt 0 ] 2>/dev/null && { echo "has-vfs $address"; exit 1; }
    former=$(last "$device/driver")
    if [ "$former" = vfio-pci ]; then is_open "$device" && { echo "open $address"; exit 1; }; fi
    before="- -"
    [ -n "$mac" ] && find_vf && before=$(addressed_vf)
    mkdir -p -m 700 -- "$place" && echo "$vm ${former:--} $before" > "$place/.$address" &&
        mv -f -- "$place/.$address" "$place/$address" || { echo "no-place"; exit 1; }
fi
for other in "$device"/iommu_group/devices/*; do
    [ "${other##*/}" = "$address" ] && continue
    case $(content "$pci/devices/${other##*/}/class") in 0x06*) continue ;; esac
    driver=$(last "$pci/devices/${other##*/}/driver")
    case $driver in '' | vfio-pci) ;; *) echo "shared-group $address ${other##*/} $driver"; exit 1 ;; esac
done
[ -n "$mac" ] && address_vf "$mac" "$vlan"
if [ "$(last "$device/driver")" != vfio-pci ]; then
    echo vfio-pci > "$device/driver_override" || { echo "no-override $address"; exit 1; }
    unbind "$device" || { echo "stays $address $(last "$device/driver")"; exit 1; }
    echo "$address" > "$pci/drivers_probe"
    bound_to "$device" vfio-pci || { echo "not-bound $address $(last "$device/driver")"; exit 1; }
fi
echo "taken $address"
"""
)
"""$2 is a function's address, $3 the guest, $4 its MAC (empty: leave it) and $5 its VLAN (0: none)."""

GIVE_BACK: Final = (
    _COMMON
    + _DRIVERS
    + r"""
vm=$1 wanted=$2
for file in "$place"/*; do
    [ -f "$file" ] || continue
    address=${file##*/}
    [ -z "$wanted" ] || [ "$wanted" = "$address" ] || continue
    { read -r holder former mac vlan < "$file"; } 2>/dev/null
    [ "$holder" = "$vm" ] || continue
    device=$pci/devices/$address
    if [ -e "$device/vendor" ]; then
        if [ "$former" != vfio-pci ]; then
            echo > "$device/driver_override" || { echo "no-override $address"; exit 1; }
            if [ "$(last "$device/driver")" = vfio-pci ]; then
                unbind "$device" || { echo "stays $address vfio-pci"; exit 1; }
            fi
        fi
        [ "${mac:--}" = - ] || address_vf "$mac" "${vlan:-0}"
        case $former in '' | - | vfio-pci) former= ;; esac
        if [ -n "$former" ] && [ "$(last "$device/driver")" != "$former" ]; then
            echo "$address" > "$pci/drivers_probe"
            bound_to "$device" "$former" || { echo "not-bound $address $(last "$device/driver") $former"; exit 1; }
        fi
    fi
    rm -f -- "$file"
    echo "returned $address"
done
"""
)
"""$2 is the guest, $3 the address of a function, or empty for all that it has."""

HOLDS: Final = r"""
if place=$(runtime); then grep -l -- "^$owner " "$place"/functions/* 2>/dev/null | head -n 1; fi
"""
"""Prints something where the guest `owner`, a shell variable, has functions of the host."""

_MENDS: Final = {
    "absent": ("has no PCI function {0}", "godwit host devices names those that there are"),
    "no-vfio": ("has no driver vfio-pci for {0}", "modprobe vfio-pci  (on the host)"),
    "no-iommu": (
        "has no IOMMU for {0}",
        "switch VT-d or AMD-Vi on in its firmware, and boot it with intel_iommu=on (Intel; AMD needs no option)",
    ),
    "open": ("has {0} open in a process that Godwit did not start", "end that process, or choose another function"),
    "in-use": ("uses {0} itself: its interface is up", "ip link set dev NAME down, if nothing of the host needs it"),
    "has-vfs": ("has virtual functions on {0}", "give the guest one of these: godwit host devices"),
    "shared-group": (
        "cannot give {0} away alone: {1} ({2}) is in the same IOMMU group",
        "put the card into another slot, or give both to one guest",
    ),
    "no-address": ("cannot set the MAC or VLAN of {0} on {1}: {2}", "log in as root, and see that {1} is up"),
    "not-bound": ("has not bound {0} to the driver that it needs (now: {1})", "dmesg on the host says why"),
    "stays": ("cannot take {0} from its driver {1}", "see who uses it: a QEMU that still runs, an interface"),
}


def check_address(address: str) -> str:
    """Return a full PCI address. Raises InputError for anything else."""
    if ADDRESS.fullmatch(address):
        return address
    message = f"{address!r} is no PCI address"
    raise InputError(message, remedy="write it in full, such as 0000:3b:02.0; godwit host devices lists them")


def parse_functions(said: str) -> Iterator[PciFunction]:
    """Read what LIST printed: a line for each function, and one for what each with virtual ones says of these."""
    given = {}
    for line in said.splitlines():
        word, _, rest = line.partition("|")
        if word == "vfs":
            physical, _, told = rest.partition("|")
            given[physical] = parse_virtual(told)
    for line in said.splitlines():
        fields = line.split("|")
        if len(fields) < _FIELDS or not ADDRESS.fullmatch(fields[0]):
            continue
        address, vendor, device, driver, group, names, up, physical, number, vfs, total, record, held = fields[:_FIELDS]
        guest, former, *_ = [*record.split(), "", ""]
        mac, vlan = given.get(physical, {}).get(number, ("", 0))
        yield PciFunction(
            address=address,
            vendor=vendor.removeprefix("0x"),
            device=device.removeprefix("0x"),
            driver=driver,
            group=group,
            interfaces=tuple(filter(None, names.split(","))),
            up=up == "yes",
            physical=physical,
            number=int(number) if number.isdecimal() else None,
            vfs=int(vfs) if vfs.isdecimal() else 0,
            vfs_total=int(total) if total.isdecimal() else 0,
            guest=guest,
            former="" if former == "-" else former,
            held=held == "yes",
            mac=mac,
            vlan=vlan,
        )


def parse_virtual(said: str) -> dict[str, tuple[str, int]]:
    """Return MAC and VLAN of each virtual function by its number, as `ip -j link show` says; "" and 0 where none."""
    found = {}
    with suppress(ValueError, LookupError, AttributeError, TypeError):
        for row in json.loads(said)[0]["vfinfo_list"]:
            mac, vlans = str(row.get("address") or row.get("mac") or ""), row.get("vlan_list") or [row]
            found[str(row["vf"])] = (mac if mac.strip("0:") else "", int(vlans[0].get("vlan") or 0))
    return found


_FIELDS: Final = 13


async def look(transport: Runs, *, root: str = "") -> tuple[PciFunction, ...]:
    """Return the host's PCI network functions, in one round trip. Raises HostError."""
    completed = await run_script(transport, LIST, root)
    return tuple(parse_functions(completed.stdout.decode(errors="replace")))


async def take(transport: Runs, vm: str, address: str, *, mac: str = "", vlan: int = 0, root: str = "") -> None:
    """Take a function from the host for a guest. Idempotent. Raises HostError, BusyError, with the mend."""
    arguments = (check_address(address), vm, mac, str(vlan))
    completed = await run_script(transport, TAKE, root, *arguments, deadline=BIND_DEADLINE, check=False)
    if completed.status != 0:
        raise _error(transport.where, completed.stdout.decode(errors="replace").strip() or words_of(completed))


async def give_back(transport: Runs, vm: str, address: str = "", *, root: str = "") -> tuple[str, ...]:
    """Give a function that a guest had, or all of them, to their former drivers; returns which. Idempotent.

    Only when the guest's QEMU has let go: the kernel waits for it otherwise. Raises HostError.
    """
    completed = await run_script(
        transport, GIVE_BACK, root, vm, address and check_address(address), deadline=BIND_DEADLINE, check=False
    )
    said = completed.stdout.decode(errors="replace").strip()
    if completed.status != 0:
        raise _error(transport.where, (said.splitlines() or [words_of(completed)])[-1])
    return tuple(line.removeprefix("returned ") for line in said.splitlines())


def _error(where: str, said: str) -> GodwitError:
    word, _, rest = said.partition(" ")
    if word == "held":
        address, _, holder = rest.partition(" ")
        message = f"{address} of {where} is {holder}'s"
        return BusyError(message, remedy=f"take another one, or: godwit device list {holder}")
    if word in _MENDS:
        what, mend = _MENDS[word]
        fields = [*rest.split(" ", 2), "", "", ""]
        return HostError(f"{where} {what.format(*fields)}", remedy=mend.format(*fields))
    return HostError(f"{where} could not do it: {said}", remedy="log in as root: only root may bind PCI functions")
