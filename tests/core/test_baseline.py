"""The largest CPU for several hosts: on what two real QEMUs said, and on hosts of both vendors and several ages."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_preflight import QEMU, host

from godwit.core.baseline import Giver, baseline, flags_of_kernel
from godwit.errors import InputError
from godwit.hosts.cpumodels import parse_cpu
from godwit.hosts.factsparse import split_sections
from godwit.model import CpuDefinition, CpuFacts, FlagLimit, HostFacts

RECORDED = Path(__file__).parents[1] / "hosts" / "recorded"
NEW, OLD = (
    parse_cpu(split_sections((RECORDED / f"cpu-qemu-{version}.txt").read_text(encoding="utf-8")))
    for version in ("10.0", "7.2")
)

COMMON = frozenset({"lm", "nx", "sse4.2", "avx2"})
BROADWELL = CpuDefinition("Broadwell", "GenuineIntel", COMMON | {"rtm", "hle"})
SKYLAKE = CpuDefinition("Skylake-Client", "GenuineIntel", BROADWELL.flags | {"mpx", "xsavec", "clflushopt"})
EPYC = CpuDefinition("EPYC", "AuthenticAMD", COMMON | {"sse4a", "clflushopt"})
QEMU64 = CpuDefinition("qemu64", "AuthenticAMD", frozenset({"lm", "nx"}))
MODELS = (BROADWELL, SKYLAKE, EPYC, QEMU64)


def kvm(name: str, gives: frozenset[str], vendor: str = "GenuineIntel") -> Giver:
    """A host on which KVM runs, and whose processor has these flags."""
    models = tuple(replace(model, lacks=model.flags - gives) for model in MODELS)
    return Giver(host(name, cpu_vendor=vendor), CpuFacts(models, gives))


def tcg(name: str, cpu: CpuFacts, version: tuple[int, int, int]) -> Giver:
    return Giver(host(name, accelerators=("tcg",), qemu=replace(QEMU, version=version)), cpu)


OLDER = kvm("broadwell", BROADWELL.flags)
NEWER = kvm("skylake", SKYLAKE.flags)
NO_TSX = kvm("patched", SKYLAKE.flags - {"rtm", "hle"})
AMD = kvm("epyc", EPYC.flags, "AuthenticAMD")


@pytest.mark.parametrize(
    ("givers", "argument"),
    [
        ([OLDER], "Broadwell,enforce"),
        ([NEWER], "Skylake-Client,enforce"),
        ([OLDER, NEWER], "Broadwell,enforce"),
        ([NEWER, OLDER], "Broadwell,enforce"),
        ([AMD, AMD], "EPYC,enforce"),
        ([OLDER, NO_TSX], "Broadwell,-hle,-rtm,enforce"),
        ([NEWER, NO_TSX], "Skylake-Client,-hle,-rtm,enforce"),
        ([OLDER, AMD], "qemu64,+avx2,+sse4.2,enforce"),
    ],
)
def test_generations_and_vendors(givers: list[Giver], argument: str) -> None:
    assert baseline(givers, "kvm").argument == argument


def test_it_says_which_host_lacks_what() -> None:
    found = baseline([OLDER, NO_TSX], "kvm")
    assert found.removed == (FlagLimit("hle", ("patched",)), FlagLimit("rtm", ("patched",)))
    assert {one.flag: one.hosts for one in found.limits} == {
        **dict.fromkeys(("hle", "rtm"), ("patched",)),
        **dict.fromkeys(("clflushopt", "mpx", "xsavec"), ("broadwell",)),
    }
    assert any("taken away" in note for note in found.notes)


def test_two_vendors_are_warned_of() -> None:
    (note,) = baseline([OLDER, AMD], "kvm").notes
    assert "AuthenticAMD on epyc, GenuineIntel on broadwell" in note
    assert not baseline([AMD, AMD], "kvm").notes


def test_as_two_versions_of_qemu_emulate_it() -> None:
    """Each printed line was tried on both QEMUs, with `enforce`: tests/lab/test_hosts_compared.py does it again."""
    both = baseline([tcg("new", NEW, (10, 0, 2)), tcg("old", OLD, (7, 2, 22))], "tcg")
    assert both.model == "Haswell-noTSX"
    assert {one.flag: one.hosts for one in both.removed} == {
        **dict.fromkeys(("invpcid", "pcid", "tsc-deadline"), ("new", "old")),
        "x2apic": ("old",),
    }
    assert {"adx", "sse4a", "vaes"} <= set(both.added)
    assert not set(both.added) & {"svm", "npt", "rdseed", "sha-ni", "la57"}
    assert FlagLimit("sha-ni", ("old",)) in both.limits
    assert FlagLimit("pcommit", ("new",)) in both.limits


def test_libvirt_s_names_are_libvirt_s() -> None:
    flags = frozenset({"lahf-lm", "pclmulqdq", "fxsr-opt", "tsc-adjust", "sse4.2", "lm", "nx"})
    found = baseline([kvm("one", flags)], "kvm")
    element = ET.fromstring(found.xml)  # noqa: S314 - our own
    assert (element.tag, element.attrib) == ("cpu", {"mode": "custom", "match": "exact"})
    assert element.findtext("model") == found.model
    names = {one.get("name") for one in element.findall("feature") if one.get("policy") == "require"}
    assert names == {"lahf_lm", "pclmuldq", "fxsr_opt", "tsc_adjust"}
    assert "+lahf-lm" in found.argument


def by_kernel(name: str, flags: str, vendor: str = "GenuineIntel") -> Giver:
    """A host on which KVM does not run: its flags are the kernel's word, its models those of an emulating QEMU."""
    facts = host(name, accelerators=("tcg",), cpu_flags=frozenset(flags.split()), cpu_vendor=vendor)
    return Giver(facts, CpuFacts(NEW.models, NEW.gives))


def test_where_kvm_does_not_run_the_kernel_s_word_counts() -> None:
    names = {"3dnowprefetch", "abm", "pclmulqdq", "lahf-lm", "sse4.1", "sse4.2", "tsc-deadline"}
    broadwell = next(model for model in NEW.models if model.name == "Broadwell")
    words = " ".join(sorted(broadwell.flags)).replace("sse4.", "sse4_").replace("lahf-lm", "lahf_lm")
    words = words.replace("tsc-deadline", "tsc_deadline_timer")
    assert names <= broadwell.flags
    found = baseline([by_kernel("one", words), by_kernel("two", f"{words} avx512f mpx")], "kvm")
    assert (found.model, found.removed) == ("Broadwell", ())
    assert found.sources[0][1].startswith("/proc/cpuinfo (Xeon Gold 6430), models of QEMU 10.0.2")
    assert "KVM does not run on one, two now" in found.notes[0]


@pytest.mark.parametrize(
    ("vendor", "flags", "known", "has"),
    [
        ("GenuineIntel", "avx512_vnni sse4_1 tsc_deadline_timer", {"avx512vnni", "sse4.1", "tsc-deadline", "mpx"},
         {"avx512vnni", "sse4.1", "tsc-deadline"}),
        ("GenuineIntel", "ibrs ssbd stibp", {"spec-ctrl", "ssbd", "stibp", "amd-ssbd"}, {"spec-ctrl", "ssbd", "stibp"}),
        ("AuthenticAMD", "ibrs ssbd stibp", {"spec-ctrl", "ssbd", "amd-ssbd", "amd-stibp", "ibrs"},
         {"amd-ssbd", "amd-stibp", "ibrs"}),
        ("GenuineIntel", "", {"x2apic", "kvmclock", "avx"}, {"x2apic"}),
    ],
)  # fmt: skip
def test_the_kernel_s_names(vendor: str, flags: str, known: set[str], has: set[str]) -> None:
    assert flags_of_kernel(flags.split(), vendor, known) == has


@pytest.mark.parametrize(
    ("facts", "cpu", "words"),
    [
        (host("arm", architecture="aarch64"), NEW, "arm is aarch64"),
        (host("bare", qemu=None), NEW, "bare has no QEMU"),
        (host("mute"), CpuFacts(), "does not say which CPU models"),
        (host("other"), CpuFacts((CpuDefinition("max", "", COMMON),), COMMON), "no CPU model in common"),
    ],
)
def test_where_there_is_none_it_says_why(facts: HostFacts, cpu: CpuFacts, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as raised:
        baseline([OLDER, Giver(facts, cpu)], "kvm")
    assert raised.value.remedy


FLAGS = sorted(SKYLAKE.flags | EPYC.flags)


@given(st.lists(st.sets(st.sampled_from(FLAGS)), min_size=1, max_size=5))
def test_whatever_the_hosts_have_all_of_them_can_give_it(has: list[set[str]]) -> None:
    """The CPU that comes out has what all hosts have, and nothing that one of them lacks; the order does not matter."""
    givers = [kvm(f"h{number}", frozenset(flags)) for number, flags in enumerate(has)]
    found = baseline(givers, "kvm")
    model = next(model for model in MODELS if model.name == found.model)
    given_flags = (model.flags | set(found.added)) - {one.flag for one in found.removed}
    assert given_flags == set.intersection(*has)
    assert all(one.hosts for one in (*found.removed, *found.limits))
    again = baseline(list(reversed(givers)), "kvm")
    assert (again.argument, again.limits) == (found.argument, found.limits)
