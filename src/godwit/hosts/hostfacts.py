"""Asks a host what it is: one script, whose expensive answers are kept on the host until it is started anew.

What QEMU says of itself is kept per binary (path, time and size); whether KVM really runs a guest per binary and boot.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.clock import now
from godwit.errors import HostError
from godwit.hosts import factsparse, resources
from godwit.hosts.shell import run_script
from godwit.model import HostFacts

if TYPE_CHECKING:
    from godwit.hosts.transport import Transport
    from godwit.model import QemuFacts

FACTS_DEADLINE: Final = 25.0
_CLOCK_QUESTIONS: Final = 3

_PROBE_PROGRAM: Final = (
    "+jHAjtiOwI7QvAB8vwAQZjHAuQAM/Gbzq2bHBgAQAyAAAGbHBgAgAzAAAGbHBgAwgwAAAOSSDALmkma4IAAAAA8i4Ga4ABAAAA8i2Ga5gAAAwA8y"
    "Zg0AAQAADzAPIMBmDQEAAIAPIsAPARbAfOpyfAgAZrgQAI7YjtBIx8EAACAAMdtIActIiRwlAFAAAOLzsEdmugIE7rAxZroBBe706/0PH4AAAAAA"
    "AAAAAAAAAAAAAAAAAJogAAAAAAAAkgAAFwCofAAAAAAAAAA="
)
"""A boot sector: it goes from real mode over protected mode into long mode with paging, adds up two million numbers in
memory, and writes 0x31 to port 0x501, where isa-debug-exit makes QEMU end with status 99. A firmware's output would
prove less: there are machines where KVM runs real mode, and everything beyond hangs."""

_FACTS: Final = (
    r"""
LC_ALL=C
export LC_ALL
wanted=$1 program=$2 accelerator=$3
section() { echo "== $1"; }
section hostname; uname -n
section kernel; uname -r
section architecture; uname -m
section machine-id; cat /etc/machine-id 2>/dev/null
section cpuinfo; cat /proc/cpuinfo
section meminfo; cat /proc/meminfo
section links; ip -j -d link show
section addresses; ip -j addr show scope global
section storage; timeout 3 findmnt --real --list --bytes --json --output TARGET,SOURCE,FSTYPE,SIZE,AVAIL 2>/dev/null
section send-queue
if [ -w /proc/sys/net/ipv4/tcp_notsent_lowat ] && command -v flock >/dev/null && runtime >/dev/null; then echo yes; fi
"""
    + resources.LIST
    + r"""

machine=$(uname -m)
case $machine in i?86) machine=i386 ;; armv*) machine=arm ;; ppc64le) machine=ppc64 ;; esac
qemu=
for name in ${wanted:+"$wanted"} ${wanted:-"qemu-system-$machine" /usr/libexec/qemu-kvm qemu-kvm}; do
    qemu=$(command -v -- "$name") && [ -x "$qemu" ] && break
    qemu=
done
section path; echo "$qemu"
[ -n "$qemu" ] || exit 0

place=$(runtime) && mkdir -p -m 700 -- "$place/facts" && place=$place/facts || place=
key="$qemu $(stat -L -c '%Y %s' -- "$qemu")"
name=$(printf '%s' "$key" | cksum | tr ' ' -)
keep() {  # but for what a QEMU was cut off at: it would be believed until the host boots
    if [ -z "$place" ]; then cat; return; fi
    new=$place/.new.$$
    cat > "$new" && cat -- "$new" || return
    if grep -qxF '== cut-off' "$new"; then rm -f -- "$new"; else mv -- "$new" "$place/$1"; fi
}
known() { [ -n "$place" ] && [ -r "$place/$1" ] && [ "$(sed -n '2{p;q}' "$place/$1")" = "$2" ] && cat -- "$place/$1"; }
late=
ask() {
    question=$1
    shift
    said=$(
        printf '{"execute":"%s"}\n' qmp_capabilities "$question" quit |
            timeout 5 "$qemu" -machine none "$@" -nodefaults -no-user-config -display none -qmp stdio 2>/dev/null
    ) || [ $? != 124 ] || late=yes
}
definitions() {
    ask query-cpu-definitions -accel "$1"
    printf '%s\n' "$said" | grep -F '"unavailable-features"' | head -n 1 |
        sed -E 's/, "(typename|alias-of)": "[^"]*"//g; s/, "(static|migration-safe|deprecated)": [a-z]+//g'
}
whole() { if [ -n "$late" ]; then section cut-off; echo yes; fi; }
known "qemu4-$name" "$key" || {
    section key; echo "$key"
    section version; "$qemu" --version < /dev/null 2>&1
    section machines; "$qemu" -machine help < /dev/null 2>&1
    section accelerators; "$qemu" -accel help < /dev/null 2>&1
    section machine-options; "$qemu" -machine none,help < /dev/null 2>&1
    # The schema is large, and QEMU makes it while its guest waits: it is never asked of one that has a guest.
    section compressions
    ask query-qmp-schema
    printf '%s\n' "$said" | grep -o '"values": *\["none", *"zlib"[^]]*\]' | head -n 1
    # It cannot find these, unless it does not come as far as to look for them.
    section tls
    timeout 5 "$qemu" -machine none -nodefaults -no-user-config -display none \
        -object tls-creds-x509,id=tls,endpoint=client,dir=/nonexistent < /dev/null 2>&1
    [ $? != 124 ] || late=yes
    section tcg-models; definitions tcg
    section devices; "$qemu" -device help < /dev/null 2>&1 | grep -oE '^name "[^"]+"|alias "[^"]+"'
    whole
} | keep "qemu4-$name"

probe() {
    section kvm-key; echo "$1"
    section kvm
    [ -e /dev/kvm ] || { echo absent; return; }
    { [ -r /dev/kvm ] && [ -w /dev/kvm ]; } || { echo forbidden; return; }
    "$qemu" -accel help < /dev/null 2>/dev/null | grep -qx "$accelerator" || { echo unsupported; return; }
    [ "$machine" = x86_64 ] || { echo unprobed; return; }
    disk=$(mktemp) || { echo "fails no temporary file can be made"; return; }
    printf %s "$program" | base64 -d > "$disk"
    printf '\125\252' | dd of="$disk" bs=1 seek=510 conv=notrunc 2>/dev/null
    truncate -s 1M "$disk"
    said=$(timeout -k 1 3 "$qemu" -accel "$accelerator" -machine q35 -m 32 -nodefaults -no-user-config \
        -display none -no-reboot -drive "file=$disk,format=raw,snapshot=on" \
        -device isa-debug-exit,iobase=0x501,iosize=1 < /dev/null 2>&1 > /dev/null)
    status=$?
    rm -f -- "$disk"
    case $status in
        99) echo works; section kvm-models; [ "$accelerator" != kvm ] || definitions kvm; whole ;;
        124 | 137) echo hangs ;;
        *) echo "fails $(printf %s "$said" | tail -n 1)" ;;
    esac
}
boot="$key $(cat /proc/sys/kernel/random/boot_id) $(stat -c '%a %G' /dev/kvm 2>/dev/null) $(id -u)"
known "${accelerator}3-$name" "$boot" || probe "$boot" | keep "${accelerator}3-$name"
"""
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the controller knows of a host without asking it: its name, and where others send streams to."""

    name: str
    migration_address: str


async def ask(transport: Transport, identity: Identity, qemu: str | None) -> HostFacts:
    """Ask the host. `qemu` names a binary, None means the one on its PATH. Raises HostError."""
    said, clock = await asyncio.gather(ask_sections(transport, qemu), ask_clock(transport))
    return read_facts(said, clock, identity, await _address(transport, identity, said), qemu)


async def ask_sections(transport: Transport, qemu: str | None, accelerator: str = "kvm") -> dict[str, str]:
    """Run the facts script; `accelerator` is the one whose ability to run a guest is probed, as section "kvm"."""
    arguments = (qemu or "", _PROBE_PROGRAM, accelerator)
    completed = await run_script(transport, _FACTS, *arguments, deadline=FACTS_DEADLINE)
    return factsparse.split_sections(completed.stdout.decode(errors="replace"))


async def _address(transport: Transport, identity: Identity, said: dict[str, str]) -> str:
    if identity.migration_address:
        return identity.migration_address
    peer = await transport.peer_address()
    if peer:
        return peer
    addresses = factsparse.parse_addresses(said.get("addresses", ""))
    return addresses[0] if addresses else "127.0.0.1"


def read_facts(
    said: dict[str, str], clock: factsparse.Clock, identity: Identity, address: str, wanted: str | None
) -> HostFacts:
    """Put a host's answers together. Raises HostError where an answer without which nothing goes is missing."""
    missing = [name for name in ("hostname", "kernel", "architecture", "cpuinfo", "meminfo") if not said.get(name)]
    if missing:
        message = f"{identity.name} did not say its {', '.join(missing)}"
        raise HostError(message, remedy="see whether it is a Linux host with /proc mounted and coreutils installed")
    processor = factsparse.parse_processor(said["cpuinfo"])
    total, available = factsparse.parse_memory(said["meminfo"])
    qemu = factsparse.parse_qemu(said.get("path", ""), said)
    network = factsparse.parse_network(said.get("links", ""), addresses=said.get("addresses", ""))
    accelerators, notes = factsparse.parse_accelerators(said.get("accelerators", ""), said.get("kvm", ""))
    return HostFacts(
        name=identity.name,
        hostname=said["hostname"],
        machine_id=said.get("machine-id", ""),
        kernel=said["kernel"],
        architecture=said["architecture"],
        cpu_model=processor.model,
        cpu_vendor=processor.vendor,
        cpu_flags=processor.flags,
        cpu_count=processor.count,
        memory_total=total,
        memory_available=available,
        qemu=qemu,
        accelerators=accelerators if qemu else (),
        bridges=network.bridges,
        interfaces=network.interfaces,
        migration_address=address,
        clock_offset=clock.offset,
        clock_uncertainty=clock.uncertainty,
        can_shorten_send_queue=said.get("send-queue") == "yes",
        storage=factsparse.parse_storage(said.get("storage", "")),
        notes=(*_qemu_notes(qemu, wanted, said), *notes),
        resources=resources.parse_resources(said),
    )


def _qemu_notes(qemu: QemuFacts | None, wanted: str | None, said: dict[str, str]) -> tuple[str, ...]:
    if qemu is not None:
        return ()
    if said.get("path"):
        return (f"{said['path']} does not say that it is a QEMU: {said.get('version', '')[:200]}",)
    looked = wanted or f"qemu-system-{said['architecture']} on the PATH, nor /usr/libexec/qemu-kvm"
    return (f"there is no {looked}",)


async def ask_clock(transport: Transport) -> factsparse.Clock:
    """Compare the host's clock with ours; the quickest of several answers is the one that says most."""
    answers: list[factsparse.Clock] = []
    for _ in range(_CLOCK_QUESTIONS):
        before = now()
        completed = await transport.run(["date", "+%s.%N"])
        answers.append(factsparse.parse_clock(before, completed.stdout.decode(errors="replace"), now()))
    return min(answers, key=lambda answer: answer.uncertainty)


_NETWORK: Final = """\
echo "== links"
ip -j -d link show || exit
echo
echo "== vlans"
bridge -j vlan show 2>/dev/null
true
"""


async def ask_network(transport: Transport) -> factsparse.Network:
    """Ask for the host's interfaces alone."""
    completed = await run_script(transport, _NETWORK)
    said = factsparse.split_sections(completed.stdout.decode(errors="replace"))
    try:
        return factsparse.parse_network(said.get("links", ""), said.get("vlans", ""))
    except HostError as error:
        message = f"{transport.where}: {error.message}"
        raise HostError(message, remedy=error.remedy) from None
