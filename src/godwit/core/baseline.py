"""The largest CPU model that lets guests run on all of some hosts. Pure: what QEMUs and kernels say in, a model out.

QEMU itself has `query-cpu-model-baseline` on s390x alone, so that on x86 it is computed. Guests can have a flag that
every host gives. Of the models by name that every host's QEMU knows, that one is taken from which the least has to be
taken away, and to which the least has to be added, until it is what the hosts have in common: a flag that is taken
away counts double, for a guest that sees a model newer than its processor looks for what is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.model import Baseline, CpuDefinition, FlagLimit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from godwit.model import CpuFacts, HostFacts

X86: Final = re.compile(r"i[3-6]86|x86_64")
_PLAIN: Final = frozenset({"kvm64", "qemu64"})
"""Models of no vendor, and of no generation: they are taken where no other will do."""

_BEYOND_NAMES: Final = frozenset({"max", "host", "base"})
_VERSIONED: Final = re.compile(r".*-v\d+")
_NOT_ADDED: Final = re.compile(
    # KVM's own, which the guest's kernel need not find on each host
    r"kvm.*|hypervisor"
    # a virtual machine within the guest: whether that may move depends on more than flags
    r"|vmx.*|svm.*|npt|lbrv|nrip-save|tsc-scale|vmcb-clean|flushbyasid|decodeassists|pause-filter|pfthreshold|avic"
    r"|v-vmsave-vmload|vgif|vnmi|x2avic"
    # what cannot be moved, or means something on its own host alone
    r"|invtsc|intel-pt.*|sgx.*|lmce|monitor|full-width-write|ht|ia64|la57|fred|lkgs"
    # what libvirt does not know
    r"|ace2.*|phe.*|pmm.*|xcrypt.*|xstore.*|bhi-no"
)
_SPELLED: Final = {"tscdeadlinetimer": "tscdeadline"}
_LIBVIRT: Final = {
    "cmp-legacy": "cmp_legacy",
    "ds-cpl": "ds_cpl",
    "fxsr-opt": "fxsr_opt",
    "lahf-lm": "lahf_lm",
    "nodeid-msr": "nodeid_msr",
    "pclmulqdq": "pclmuldq",
    "perfctr-core": "perfctr_core",
    "perfctr-nb": "perfctr_nb",
    "tsc-adjust": "tsc_adjust",
}
"""Flags that libvirt (11.3, cpu_map/x86_features.xml) calls otherwise than QEMU; the others have one name."""

_WITH_KVM: Final = frozenset({"x2apic", "arat", "tsc-deadline", "tsc-adjust", "hypervisor"})
"""What KVM gives guests whatever the processor has."""


@dataclass(frozen=True, slots=True)
class Giver:
    """A host that takes part: what it says of itself, and its QEMU of guests' processors.

    `cpu` is what QEMU says under the accelerator that counts. Where that does not run there, it is what QEMU says
    of its models under another one, and what the processor has is taken from the kernel's word.
    """

    host: HostFacts
    cpu: CpuFacts

    def by_kernel(self, accelerator: str) -> bool:
        """Say whether what it gives is read from /proc/cpuinfo."""
        return accelerator == "kvm" and accelerator not in self.host.accelerators

    def gives(self, accelerator: str) -> frozenset[str]:
        """Return the flags that it can give, by QEMU's names."""
        if not self.by_kernel(accelerator):
            return self.cpu.gives
        known = {flag for model in self.cpu.models for flag in model.flags} | self.cpu.gives
        return flags_of_kernel(self.host.cpu_flags, self.host.cpu_vendor, known)

    def lacks(self, model: CpuDefinition, accelerator: str) -> frozenset[str]:
        """Return the flags of a model that it cannot give."""
        if not self.by_kernel(accelerator):
            return model.lacks
        return frozenset(flag for flag in model.flags if not flag.startswith("kvm")) - self.gives(accelerator)


def flags_of_kernel(flags: Iterable[str], vendor: str, known: Iterable[str]) -> frozenset[str]:
    """Return the flags of /proc/cpuinfo by the names that QEMU has for them, as far as it is `known` to have any."""
    said = {_bare(flag) for flag in flags}
    if vendor == "GenuineIntel" and "ibrs" in said:  # the kernel takes SPEC_CTRL apart; see x86/kernel/cpu/common.c
        said |= {"specctrl"}
    if vendor in {"AuthenticAMD", "HygonGenuine"}:
        said |= {f"amd{flag}" for flag in ("ssbd", "stibp") if flag in said}
        said -= {"ssbd", "stibp"}
    return frozenset(flag for flag in known if _bare(flag) in said or flag in _WITH_KVM)


def _bare(flag: str) -> str:
    bare = re.sub(r"[-_.]", "", flag.lower())
    return _SPELLED.get(bare, bare)


def baseline(givers: Sequence[Giver], accelerator: str) -> Baseline:
    """Return the largest CPU that all of them can give under an accelerator.

    Raises InputError where there is none: hosts of other architectures than x86, or without a QEMU.
    """
    _refuse(givers)
    gives = {giver.host.name: giver.gives(accelerator) for giver in givers}
    common = frozenset.intersection(*gives.values())
    fits = [(_fit(givers, name, common, accelerator), name) for name in sorted(_candidates(givers, accelerator))]
    if not fits:
        message = f"the QEMUs of {_names(givers)} have no CPU model in common"
        raise InputError(message, remedy="install QEMUs of about the same age, or compare fewer hosts")
    best, name = min(fits, key=lambda fit: (fit[1] in _PLAIN, *fit[0].cost, fit[1]))
    lists = tuple(FlagLimit(flag, hosts) for flag, hosts in sorted(_limits(gives).items()))
    vendors = {giver.host.cpu_vendor for giver in givers}
    vendor = _definitions(givers[0])[name].vendor
    added = tuple(sorted(best.added))
    removed = tuple(FlagLimit(flag, tuple(sorted(best.removed[flag]))) for flag in sorted(best.removed))
    return Baseline(
        accelerator=accelerator,
        model=name,
        vendor=vendor if accelerator == "tcg" or len(vendors) > 1 else vendors.pop(),
        added=added,
        removed=removed,
        limits=lists,
        sources=tuple((giver.host.name, _source(giver, accelerator)) for giver in givers),
        argument=",".join((name, *(f"+{flag}" for flag in added), *(f"-{one.flag}" for one in removed), "enforce")),
        xml=_xml(name, added, removed),
        notes=tuple(_notes(givers, accelerator, best)),
    )


def _xml(name: str, added: Sequence[str], removed: Sequence[FlagLimit]) -> str:
    wanted = [("require", flag) for flag in added] + [("disable", one.flag) for one in removed]
    lines = [f"  <feature policy='{policy}' name='{_LIBVIRT.get(flag, flag)}'/>" for policy, flag in wanted]
    head = ("<cpu mode='custom' match='exact'>", f"  <model fallback='forbid'>{name}</model>")
    return "\n".join((*head, *lines, "</cpu>"))


@dataclass(frozen=True, slots=True)
class _Fit:
    """What has to be done to a model until all hosts can give it, and it has what they have in common."""

    added: frozenset[str]
    removed: dict[str, set[str]]
    flags: int

    @property
    def cost(self) -> tuple[int, int]:
        return 2 * len(self.removed) + len(self.added), -self.flags


def _refuse(givers: Sequence[Giver]) -> None:
    if not givers:
        message = "a baseline is one of at least one host"
        raise InputError(message, remedy="godwit cpu baseline HOST...")
    for giver in givers:
        host = giver.host
        if not X86.fullmatch(host.architecture):
            message = f"{host.name} is {host.architecture}: baselines are computed for x86 alone"
            remedy = "elsewhere guests see the host's own CPU; on s390x QEMU has query-cpu-model-baseline"
            raise InputError(message, remedy=remedy)
        if host.qemu is None:
            message = f"{host.name} has no QEMU that could be asked"
            raise InputError(message, remedy=f"install QEMU on {host.name}, or leave it out")
        if not giver.cpu.models:
            message = f"{host.qemu.path} on {host.name} does not say which CPU models it has"
            remedy = "query-cpu-model-expansion came to x86 with QEMU 2.9; is it a build without some accelerator?"
            raise InputError(message, remedy=remedy)


def _definitions(giver: Giver) -> dict[str, CpuDefinition]:
    return {model.name: model for model in giver.cpu.models}


def _candidates(givers: Sequence[Giver], accelerator: str) -> Iterator[str]:
    """Yield models that all QEMUs know, of the hosts' vendor under KVM: by the names that libvirt has for them, too."""
    known = [_definitions(giver) for giver in givers]
    vendors = {giver.host.cpu_vendor for giver in givers}
    for name in set.intersection(*(set(models) for models in known)):
        definition = known[0][name]
        if name in _BEYOND_NAMES or _VERSIONED.fullmatch(name) or any(models[name].deprecated for models in known):
            continue
        if accelerator == "kvm" and name not in _PLAIN and vendors != {definition.vendor}:
            continue
        if all(models[name].lacks <= models[name].flags for models in known):  # else it cannot be had at all
            yield name


def _fit(givers: Sequence[Giver], name: str, common: frozenset[str], accelerator: str) -> _Fit:
    definitions = [_definitions(giver)[name] for giver in givers]
    removed: dict[str, set[str]] = {}
    for giver, definition in zip(givers, definitions, strict=True):
        for flag in giver.lacks(definition, accelerator):
            removed.setdefault(flag, set()).add(giver.host.name)
    has = frozenset.intersection(*(one.flags for one in definitions))
    added = frozenset(flag for flag in common - has - set(removed) if not _NOT_ADDED.fullmatch(flag))
    return _Fit(added, removed, len(has - set(removed)))


def _limits(gives: dict[str, frozenset[str]]) -> dict[str, tuple[str, ...]]:
    """Return the flags that some hosts give and others do not, with those others."""
    every = frozenset.union(*gives.values())
    return {
        flag: without
        for flag in every
        if not _NOT_ADDED.fullmatch(flag)
        and (without := tuple(sorted(name for name, flags in gives.items() if flag not in flags)))
    }


def _source(giver: Giver, accelerator: str) -> str:
    version = ".".join(map(str, giver.host.qemu.version)) if giver.host.qemu else "?"
    if giver.by_kernel(accelerator):
        return f"/proc/cpuinfo ({giver.host.cpu_model}), models of QEMU {version}"
    return f"QEMU {version} under {accelerator} ({giver.host.cpu_model})"


def _notes(givers: Sequence[Giver], accelerator: str, best: _Fit) -> Iterator[str]:
    vendors = {giver.host.cpu_vendor: giver.host.name for giver in reversed(givers)}
    if accelerator == "kvm" and len(vendors) > 1:
        who = ", ".join(f"{vendor} on {name}" for vendor, name in sorted(vendors.items()))
        yield (
            f"the processors are of several vendors ({who}): a guest sees its host's vendor, and finds another one "
            "after a move; what it learnt at its boot (mitigations, system calls) may then be wrong"
        )
    if by_kernel := [giver.host.name for giver in givers if giver.by_kernel(accelerator)]:
        yield (
            f"KVM does not run on {', '.join(by_kernel)} now: what it would give is read from /proc/cpuinfo; start a "
            "guest with it there before you rely on it (enforce says at once what is missing)"
        )
    if accelerator == "tcg":
        yield "this is what QEMU emulates: it says nothing of guests that run under KVM"
    if best.removed:
        yield "a flag that is taken away from a model is one that software for that model may take for granted"


def _names(givers: Sequence[Giver]) -> str:
    return ", ".join(giver.host.name for giver in givers)
