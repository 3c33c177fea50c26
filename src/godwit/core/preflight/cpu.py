"""Checks of the processor: what the guest was given of it at its boot must be there on the other side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.core.preflight.rows import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import CpuModel, Finding, HostFacts

_HOST_MODELS: Final = frozenset({"host", "max"})
_X86: Final = re.compile(r"i[3-6]86|x86_64")
_SHOWN: Final = 8
_NO: Final = frozenset({"off", "no", "false"})
_YES: Final = frozenset({"on", "yes", "true"})
_MODELS_OF_32_BITS: Final = re.compile(r"(qemu32|kvm32|486|pentium[23]?|coreduo|n270|athlon)(-v\d+)?")
"""Models without long mode."""


def cpu_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what of the guest's processor the target cannot give."""
    yield from _architecture(e)
    yield from _named_model(e)
    yield from _emulated_max(e)
    if e.guest.accelerator == "tcg":  # the rest is of the hosts' own processors, which the guest does not see
        return
    yield from _flags(e)
    yield from _no_execute(e)
    if e.source.cpu_vendor != e.target.cpu_vendor:
        yield found(
            "cpu-vendor",
            e.target.name,
            f"{e.source.cpu_vendor} on {e.source.name}, {e.target.cpu_vendor} on {e.target.name}",
            "choose a host of the same vendor",
        )


def _architecture(e: Evidence) -> Iterator[Finding]:
    here, there = e.source.architecture, e.target.architecture
    both_x86 = _X86.fullmatch(here) and _X86.fullmatch(there)
    if here != there and not both_x86:
        yield found(
            "architecture",
            e.target.name,
            f"{here} on {e.source.name}, {there} on {e.target.name}",
            "choose a host of the same architecture",
        )
    elif both_x86 and _is_64_bit(e) and not _runs_64_bit(e.target, e.guest.accelerator):
        yield found(
            "guest-bits",
            e.target.name,
            f"{e.vm.name} is a 64-bit guest ({_program(e)} on {here}); {e.target.name} is {there}"
            f"{'' if 'lm' in e.target.cpu_flags else ', its processor without long mode (lm)'}",
            "choose a 64-bit host; only guests of qemu-system-i386 may go to a 32-bit one",
        )


def _program(e: Evidence) -> str:
    return e.guest.launch.argv[0].rpartition("/")[2]


def _is_64_bit(e: Evidence) -> bool:
    """Say whether the guest may be in 64-bit mode: its QEMU, its CPU model and its host permit that."""
    given = _switches(e.guest.cpu_model)
    narrow = "i386" in _program(e) or _MODELS_OF_32_BITS.fullmatch(_model_name(e)) or given.get("lm") is False
    return not narrow and _runs_64_bit(e.source, e.guest.accelerator)


def _runs_64_bit(host: HostFacts, accelerator: str) -> bool:
    return host.architecture == "x86_64" and (accelerator == "tcg" or "lm" in host.cpu_flags)


def _model_name(e: Evidence) -> str:
    return e.guest.cpu_model.partition(",")[0]


def _switches(model: str) -> dict[str, bool]:
    """Return the flags that -cpu gives or takes beside its model: `+avx`, `-avx`, `avx=on`, `avx=off`."""
    found: dict[str, bool] = {}
    for word in model.split(",")[1:]:
        key, equals, value = word.partition("=")
        if word[:1] in {"+", "-"}:
            found[_flag(word[1:])] = word[0] == "+"
        elif not equals or value in _YES | _NO:
            found[_flag(key)] = not equals or value in _YES
    return found


def _flag(name: str) -> str:
    """Return a flag by one name for all: QEMU writes sse4.2, tsc-deadline; the kernel writes sse4_2."""
    return name.replace("-", "_").replace(".", "_").lower()


def _models(host: HostFacts, accelerator: str) -> dict[str, CpuModel]:
    if host.qemu is None:
        return {}
    return {one.name: one for one in (host.qemu.kvm_models if accelerator == "kvm" else host.qemu.tcg_models)}


def _named_model(e: Evidence) -> Iterator[Finding]:
    """Compare what both sides can give of a named model: what the source never gave, the guest does not miss."""
    name = _model_name(e)
    here, there = (_models(host, e.guest.accelerator) for host in (e.source, e.target))
    if not name or name in _HOST_MODELS or not there:
        return
    if name not in there:
        yield found(
            "cpu-model-unknown",
            name,
            f"{e.target.qemu.path if e.target.qemu else 'QEMU'} on {e.target.name} has no CPU model {name}",
            f"install a QEMU on {e.target.name} that has it, or start the guest with a model that both have",
        )
        return
    if name not in here:
        return
    switches = _switches(e.guest.cpu_model)
    lost = {flag for flag in there[name].lacks - here[name].lacks if switches.get(_flag(flag)) is not False}
    if e.guest.accelerator == "kvm":
        gone = {_flag(one) for one in e.source.cpu_flags - e.target.cpu_flags}
        lost |= {flag for flag, given in switches.items() if given and flag in gone}
    if lost:
        missing = sorted(lost)
        without = "".join(f",{flag}=off" for flag in missing)
        yield found(
            "cpu-model",
            name,
            f"{e.target.name} ({_giver(e.target, e.guest.accelerator)}) cannot give {_some(missing)} of {name}, "
            f"which {e.source.name} ({_giver(e.source, e.guest.accelerator)}) gives",
            f"choose another host, or start the guest anew with -cpu {e.guest.cpu_model}{without}",
        )


def _emulated_max(e: Evidence) -> Iterator[Finding]:
    qemu = e.target.qemu
    if e.guest.accelerator != "tcg" or _model_name(e) not in _HOST_MODELS or qemu is None:
        return
    here, there = (".".join(map(str, version[:2])) for version in (e.guest.qemu_version, qemu.version))
    if here != there:
        yield found(
            "cpu-max-differs",
            e.guest.cpu_model,
            f"QEMU {here} on {e.source.name}, {there} on {e.target.name}, and the guest's CPU is {e.guest.cpu_model}",
            "start the guest anew with a CPU model by name (-cpu qemu64, or another that both can emulate)",
        )


def _giver(host: HostFacts, accelerator: str) -> str:
    version = ".".join(map(str, host.qemu.version)) if host.qemu else "?"
    return f"{host.cpu_model}, QEMU {version}" if accelerator == "kvm" else f"emulated by QEMU {version}"


def _some(flags: list[str]) -> str:
    return f"{', '.join(flags[:_SHOWN])}{' and more' if len(flags) > _SHOWN else ''}"


def _flags(e: Evidence) -> Iterator[Finding]:
    """Compare flags where the guest sees the host's own CPU."""
    missing = sorted(e.source.cpu_flags - e.target.cpu_flags)
    if missing and _model_name(e) in _HOST_MODELS:
        yield found(
            "cpu-flags",
            e.target.name,
            f"{e.target.cpu_model} lacks {_some(missing)}",
            "start the guest with a CPU model that both hosts have",
        )


def _no_execute(e: Evidence) -> Iterator[Finding]:
    here, there = ("nx" in host.cpu_flags for host in (e.source, e.target))
    if not _X86.fullmatch(e.source.architecture) or here == there or _switches(e.guest.cpu_model).get("nx") is False:
        return
    says = {True: "has NX", False: "has no NX"}
    what = f"{e.source.name} {says[here]}, {e.target.name} {says[there]}"
    lacks = e.target.name if here else e.source.name
    mend = f"switch it on in the firmware of {lacks} (No-Execute, XD, EVP), and leave out noexec=off on its kernel"
    yield found("nx-differs" if here else "nx-gained", e.target.name, what, mend)
