"""Hosts that are not alike: QEMU 10.0 on the first, 7.2 on the second, with processors of the seed's two generations.

Both run on this machine's processor. What is unlike is real where QEMU emulates: the two versions give other flags of
a CPU model by name. The processors themselves are files bound over /proc/cpuinfo.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

import pytest
from labtools import Ground

from godwit.core.baseline import Giver, baseline
from godwit.hosts.cpumodels import _ASK, parse_cpu
from godwit.hosts.factsparse import Clock, split_sections
from godwit.hosts.hostfacts import Identity, read_facts
from godwit.lab import assets
from godwit.lab.assets import Tree
from godwit.lab.laboratory import Laboratory
from godwit.lab.plan import LabPlan

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

QEMU: Final = "/usr/bin/qemu-system-x86_64"
WRAPPER: Final = """#!/bin/bash
export LD_LIBRARY_PATH={tree}/usr/lib/x86_64-linux-gnu
exec -a qemu-system-x86_64 {tree}{qemu} -L {tree}/usr/share/qemu -L {tree}/usr/share/seabios "$@"
"""
START: Final = (
    "qemu-system-x86_64 -name guest={name} -M pc-q35-7.2 -accel tcg -cpu {cpu} -m 32 -nodefaults -display none "
    "-qmp unix:/run/{name}.qmp,server=on,wait=off -daemonize"
)
COMMON: Final = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 syscall nx "
    "rdtscp lm constant_tsc pni pclmulqdq ssse3 fma cx16 pcid sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes "
    "xsave avx f16c rdrand lahf_lm abm 3dnowprefetch fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm rdseed adx smap "
    "xsaveopt arat"
)
GENERATIONS: Final = {
    "host1": ("Intel(R) Xeon(R) CPU E5-2699 v4 @ 2.20GHz", COMMON),
    "host2": ("Intel(R) Core(TM) i7-6700 CPU @ 3.40GHz", f"{COMMON} mpx clflushopt xsavec xgetbv1"),
}
"""The seed's two generations: Broadwell, then Skylake."""

NEWER_GIVES: Final = ("3dnowprefetch", "rdseed", "x2apic")
"""Flags that QEMU 10.0 emulates, and 7.2 does not."""


@dataclass(frozen=True, slots=True)
class Unlike:
    """The two hosts, registered."""

    ground: Ground

    def on(self, machine: str, line: str) -> str:
        """Type a line on a host."""
        command = self.ground.lab.command(machine, ["sh", "-c", line])
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def host(self, machine: str) -> str:
        """Return a host's registered name."""
        return self.ground.host(machine)

    async def start(self, machine: str, name: str, cpu: str) -> None:
        """Start a guest that does nothing, with a CPU, and let Godwit know it."""
        self.on(machine, START.format(name=name, cpu=cpu))
        adopted = await self.ground.godwit(
            "vm", "adopt", self.host(machine), "--qmp", f"/run/{name}.qmp", "--name", name
        )
        assert adopted.status == 0, adopted

    async def end(self, machine: str, name: str) -> None:
        """End a guest and forget it."""
        await self.ground.godwit("vm", "remove", name)
        self.on(machine, f"pkill -f '[g]uest={name} ' || true; while pgrep -f '[g]uest={name} '; do sleep 0.1; done")


@pytest.fixture(scope="module")
def hosts(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Unlike:
    prepared = assets.prepare(assets.cache_folder(), print, Tree.OLD)
    old = prepared.trees.get(Tree.OLD)
    if old is None:
        pytest.skip("this release of Debian has no older QEMU")
    made = Unlike(Ground(build_lab(link_rate=None), prepared, tmp_path_factory.mktemp("godwit")))
    folder = made.ground.lab.images("host2")
    (folder / "qemu-7.2").write_text(WRAPPER.format(tree=old, qemu=QEMU))
    (folder / "qemu-7.2").chmod(0o755)
    made.on("host2", f"mount --bind /mnt/images/qemu-7.2 {QEMU}")
    for machine, (model, flags) in GENERATIONS.items():
        text = f"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: {model}\nflags\t\t: {flags}\n"
        (folder / f"cpuinfo-{machine}").write_text(text)
        made.on(machine, f"mount --bind /mnt/images/cpuinfo-{machine} /proc/cpuinfo")
    asyncio.run(made.ground.introduce())
    return made


@pytest.mark.parametrize("model", ["Broadwell", "Skylake-Client"])
async def test_a_named_model_goes_one_way_and_the_other_way_is_explained_by_flag(hosts: Unlike, model: str) -> None:
    name = f"seed-{model[:3].lower()}"
    for machine, target, status in (("host1", "host2", 3), ("host2", "host1", 0)):
        await hosts.start(machine, name, model)
        try:
            ran = await hosts.ground.godwit("check", name, hosts.host(target), "--json")
        finally:
            await hosts.end(machine, name)
        found = {one["code"]: one for one in ran.lines[0]["findings"]}
        assert ran.status == status, found
        assert ("cpu-model" in found) is (status == 3)
        if status == 3:
            assert f"cannot give {', '.join(NEWER_GIVES)} of {model}" in found["cpu-model"]["found"]
            assert "3dnowprefetch=off,rdseed=off,x2apic=off" in found["cpu-model"]["mend"]


@pytest.mark.long
async def test_the_mend_that_is_printed_mends_it(hosts: Unlike) -> None:
    await hosts.start("host1", "mended", "Broadwell")
    try:
        ran = await hosts.ground.godwit("check", "mended", hosts.host("host2"), "--json")
    finally:
        await hosts.end("host1", "mended")
    (finding,) = (one for one in ran.lines[0]["findings"] if one["code"] == "cpu-model")
    wanted = re.search(r"-cpu (\S+?);? or |-cpu (\S+)$|-cpu ([^;]+);", finding["mend"])
    assert wanted is not None, finding
    cpu = next(filter(None, wanted.groups()))
    await hosts.start("host1", "mended", cpu)
    try:
        again = await hosts.ground.godwit("check", "mended", hosts.host("host2"), "--json")
    finally:
        await hosts.end("host1", "mended")
    assert again.status == 0, again


async def test_both_hosts_side_by_side(hosts: Unlike) -> None:
    ran = await hosts.ground.godwit("host", "compare", hosts.host("host1"), hosts.host("host2"), "--json")
    assert ran.status == 0, ran
    apart = {one["subject"]: one for one in ran.lines[0]["aspects"] if one["differs"]}
    assert {"CPU model", "CPU flags", "QEMU", "machine types", "CPU models, emulation"} <= apart.keys()
    assert "find all flags" in apart["CPU flags"]["onward"], "from Broadwell to Skylake"
    assert "miss flags" in apart["CPU flags"]["back"]
    for flag in ("clflushopt", "mpx", "xgetbv1", "xsavec"):
        assert flag in apart["CPU flags"]["there"]
    assert "qemu-older" in apart["QEMU"]["onward"]
    assert "Broadwell" in apart["CPU models, emulation"]["onward"]


async def test_a_table_of_guests_and_hosts(hosts: Unlike) -> None:
    await hosts.start("host1", "table-a", "Broadwell")
    await hosts.start("host2", "table-b", "qemu64")
    try:
        ran = await hosts.ground.godwit("check", "--all", hosts.host("host1"), hosts.host("host2"), "--json")
        seen = await hosts.ground.godwit("check", "--all")
    finally:
        await hosts.end("host1", "table-a")
        await hosts.end("host2", "table-b")
    cells = {(cell["vm"], cell["host"].rpartition("-")[2]): cell for cell in ran.lines[0]["cells"]}
    assert ran.status == 3
    assert cells["table-a", "host2"]["verdict"] == "blocked"
    assert cells["table-a", "host2"]["findings"][0]["code"] == "cpu-model"
    assert cells["table-b", "host1"]["verdict"] in {"ok", "warn"}
    assert "blocked: cpu-model" in seen.out


async def test_a_guest_starts_on_both_with_the_line_that_is_printed(hosts: Unlike) -> None:
    ran = await hosts.ground.godwit("cpu", "baseline", hosts.host("host1"), hosts.host("host2"), "--json")
    assert ran.status == 0, ran
    found = ran.lines[0]
    assert found["accelerator"] == "tcg"
    assert {flag for one in found["limits"] if one["hosts"] == [hosts.host("host2")] for flag in [one["flag"]]} >= set(
        NEWER_GIVES
    )
    for machine, target in (("host1", "host2"), ("host2", "host1")):
        await hosts.start(machine, "fits", found["argument"])
        try:
            checked = await hosts.ground.godwit("check", "fits", hosts.host(target), "--json")
        finally:
            await hosts.end(machine, "fits")
        codes = {one["code"] for one in checked.lines[0]["findings"]}
        assert checked.status == 0, checked
        assert not codes & {"cpu-model", "cpu-model-unknown"}


@pytest.mark.long
async def test_a_processor_s_own_flags_count_where_kvm_does_not_run(hosts: Unlike) -> None:
    ran = await hosts.ground.godwit(
        *("cpu", "baseline", hosts.host("host1"), hosts.host("host2"), "--accelerator", "kvm", "--json")
    )
    assert ran.status == 0, ran
    found = ran.lines[0]
    assert found["model"] == "Broadwell"
    assert [one["flag"] for one in found["removed"]] == []
    limits = {one["flag"]: one["hosts"] for one in found["limits"]}
    assert {"clflushopt", "mpx", "xsavec"} <= limits.keys()
    assert limits["mpx"] == [hosts.host("host1")]
    assert all("/proc/cpuinfo" in source for _, source in found["sources"])


@pytest.mark.long
def test_libvirt_takes_the_element_that_is_printed(tmp_path: Path) -> None:
    """Its schema does, and it knows the model and each flag by the names that are printed."""
    prepared = assets.prepare(assets.cache_folder(), print, Tree.LIBVIRT)
    name = f"test-{tmp_path.name[-8:].strip('_').replace('_', '-')}"
    lab = Laboratory.up(LabPlan(name, hosts=1), prepared.trees[Tree.LIBVIRT])
    try:
        said = _typed(lab, ["sh", "-c", f"runtime() {{ return 1; }}\n{_ASK}", "sh", QEMU, "tcg"])
        recorded = Path(__file__).parents[1] / "hosts" / "recorded" / "facts-qemu-10.0.txt"
        answers = split_sections(recorded.read_text(encoding="utf-8"))
        facts = read_facts(answers, Clock(0.0, 0.0), Identity("host1", ""), "", None)
        found = baseline([Giver(facts, parse_cpu(split_sections(said)))], "tcg")
        domain = (
            "<domain type='test'><name>x</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os>"
            f"{found.xml}</domain>"
        )
        (lab.images("host1") / "domain.xml").write_text(domain)
        virsh = ["virsh", "-c", "test:///default"]
        assert "defined" in _typed(lab, [*virsh, "define", "--validate", "/mnt/images/domain.xml"])
        broken = domain.replace("policy='require'", "policy='wish'", 1)
        (lab.images("host1") / "domain.xml").write_text(broken)
        with pytest.raises(AssertionError, match="schema"):
            _typed(lab, [*virsh, "define", "--validate", "/mnt/images/domain.xml"])
        features = _typed(lab, ["cat", "/usr/share/libvirt/cpu_map/x86_features.xml"])
        known = {one.get("name") for one in ET.fromstring(features).iter("feature")}  # noqa: S314 - libvirt's own
        printed = {one.get("name") for one in ET.fromstring(found.xml).iter("feature")}  # noqa: S314 - our own
        assert printed - known == set()
        assert len(printed) > 5
        assert f"x86_{found.model}.xml" in _typed(lab, ["ls", "/usr/share/libvirt/cpu_map"])
    finally:
        Laboratory.remove(name)


def _typed(lab: Laboratory, words: list[str]) -> str:
    done = subprocess.run(lab.command("host1", words), capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout
