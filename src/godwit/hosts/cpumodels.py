"""Asks a QEMU which processors it could give guests: its models, what each promises, what of that it cannot give.

The models are asked one by one (`query-cpu-model-expansion`, type static), the flags that can be given at all are those
of `max`. That takes a second, and so is kept on the host per binary, accelerator and boot, as facts are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError
from godwit.hosts.factsparse import split_sections
from godwit.hosts.shell import run_script
from godwit.model import CpuDefinition, CpuFacts
from godwit.plaintext import from_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.hosts.transport import Transport

CPU_DEADLINE: Final = 45.0
_MODELS: Final = 1024
_FLAGS: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")

_ASK: Final = r"""
LC_ALL=C
export LC_ALL
accelerator=$2
qemu=$(command -v -- "$1") && [ -x "$qemu" ] || exit 0
place=$(runtime) && mkdir -p -m 700 -- "$place/facts" && place=$place/facts || place=
key="$qemu $accelerator $(stat -L -c '%Y %s' -- "$qemu") $(cat /proc/sys/kernel/random/boot_id) $(id -u)"
kept="$place/cpu2-$(printf '%s' "$key" | cksum | tr ' ' -)"
if [ -n "$place" ] && [ -r "$kept" ] && [ "$(head -n 1 "$kept")" = "$key" ]; then tail -n +2 -- "$kept"; exit 0; fi
section() { echo "== $1"; }
ask() {  # status 124 where it is cut off
    timeout 20 "$qemu" -machine none -accel "$accelerator" -nodefaults -no-user-config -display none -qmp stdio \
        2>/dev/null
}
say() { printf '{"execute":"%s"}\n' "$@"; }
late=
answers() {
    said=$(say qmp_capabilities query-cpu-definitions quit | ask) || [ $? != 124 ] || late=yes
    said=$(printf '%s\n' "$said" | grep -F '"unavailable-features"' | head -n 1)
    section definitions
    printf '%s\n' "$said"
    expanded=$(
        {
            say qmp_capabilities
            for name in $(printf %s "$said" | grep -oE '"name": "[A-Za-z0-9_.-]+"' | cut -d '"' -f 4 | head -n 1024); do
                printf '{"execute":"query-cpu-model-expansion","id":"%s","arguments":' "$name"
                printf '{"type":"static","model":{"name":"%s"}}}\n' "$name"
            done
            say quit
        } | ask
    ) || [ $? != 124 ] || late=yes
    section expansions
    printf '%s\n' "$expanded" | grep -F '"props"' | sed -E 's/"[^"]*": (false|-?[0-9]+)(, )?//g; s/, \}/}/g'
    if [ -n "$late" ]; then section cut-off; echo yes; fi
}
if [ -z "$place" ]; then answers; exit 0; fi
new=$place/.cpu.$$
{ printf '%s\n' "$key"; answers; } > "$new"
tail -n +2 -- "$new"
# Half an answer, or none, would be believed until the host boots.
if [ -z "$late" ] && grep -qF '"unavailable-features"' "$new" && grep -F '"props"' "$new" | grep -qF '"id": "max"'; then
    mv -- "$new" "$kept"
else
    rm -f -- "$new"
fi
"""


async def ask_cpu(transport: Transport, qemu: str, accelerator: str) -> CpuFacts:
    """Ask the program `qemu` under an accelerator; one that does not run there tells of nothing. Raises HostError."""
    completed = await run_script(transport, _ASK, qemu, accelerator, deadline=CPU_DEADLINE)
    said = split_sections(completed.stdout.decode(errors="replace"))
    if "cut-off" in said:
        message = f"{qemu} on {transport.where} did not say in time which CPUs it can give"
        raise HostError(message, remedy="ask again when that host has less to do")
    return parse_cpu(said)


def parse_cpu(said: dict[str, str]) -> CpuFacts:
    """Put QEMU's answers together; of a model that is defined and not expanded, or otherwise, nothing is told.

    Without `max` nothing is told of any: what can be given at all is not known then, which is not to say nothing can.
    """
    expanded = dict(_expansions(said.get("expansions", "")))
    if "max" not in expanded:
        return CpuFacts()
    return CpuFacts(tuple(_definitions(said.get("definitions", ""), expanded)), expanded["max"][1])


def _objects(text: str) -> Iterator[dict[str, object]]:
    for line in text.splitlines()[:_MODELS]:
        try:
            value = from_json(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _expansions(text: str) -> Iterator[tuple[str, tuple[str, frozenset[str]]]]:
    """Yield models' names with vendor and flags."""
    for reply in _objects(text):
        name, found = reply.get("id"), reply.get("return")
        model = found.get("model") if isinstance(found, dict) else None
        properties = model.get("props") if isinstance(model, dict) else None
        if isinstance(name, str) and isinstance(properties, dict) and len(properties) <= _FLAGS:
            flags = frozenset(key for key, value in properties.items() if value is True and _NAME.fullmatch(str(key)))
            yield name, (str(properties.get("vendor", ""))[:12], flags)


def _definitions(text: str, expanded: dict[str, tuple[str, frozenset[str]]]) -> Iterator[CpuDefinition]:
    for reply in _objects(text):
        rows = reply.get("return")
        for row in rows[:_MODELS] if isinstance(rows, list) else ():
            name, lacks = (row.get("name"), row.get("unavailable-features")) if isinstance(row, dict) else (None, None)
            if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(lacks, list):
                continue
            if name not in expanded:
                continue
            vendor, flags = expanded[name]
            yield CpuDefinition(
                name,
                vendor,
                flags,
                frozenset(one for one in lacks if isinstance(one, str) and _NAME.fullmatch(one)),
                str(row.get("alias-of") or "")[:60],
                deprecated=row.get("deprecated") is True,
            )
