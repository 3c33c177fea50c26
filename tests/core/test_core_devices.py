"""Names of devices, and which functions belong to which pool."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core import devices
from godwit.errors import InputError
from godwit.model import DevicePool, DiskPlan, FunctionPlan, NicPlan, PciFunction, Tap

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
VF = PciFunction("0000:3b:02.0", "8086", "154c", "iavf", "60", physical="0000:3b:00.0", number=0)


@given(st.sets(NAMES | st.sampled_from(["nic0", "nic1-net", "nic1", "disk0-file"])), st.sampled_from(["nic", "disk"]))
def test_a_new_name_is_nobody_s_and_nothing_of_it_is_behind_another(taken: set[str], prefix: str) -> None:
    name = devices.free_name(prefix, taken)
    assert name not in taken
    assert not any(one.startswith(f"{name}-") for one in taken)


@given(st.sets(st.integers(0, 20)))
def test_a_new_tap_is_the_guest_s_own_and_free(used: set[int]) -> None:
    taken = [Tap(devices.tap_name("web1", number), "br0") for number in used]
    tap = devices.free_tap("web1", taken)
    assert tap not in {one.interface for one in taken}
    assert len(tap) < 16
    assert tap[:10] == devices.tap_name("web1", 0)[:10] != devices.tap_name("web2", 0)[:10]


def test_a_nic_has_a_mac_that_follows_from_its_guest_and_name() -> None:
    plan = devices.named(NicPlan("br0"), "web1", {"nic0", "nic0-net"})
    assert plan == NicPlan("br0", devices.own_mac("web1", "nic1"), identifier="nic1")
    assert plan == devices.named(NicPlan("br0"), "web1", {"nic0"})
    given_mac = NicPlan("br0", "52:54:00:00:00:01", identifier="a")
    assert devices.named(given_mac, "web1", ()) == given_mac
    assert devices.named(DiskPlan("/a.raw", "raw"), "web1", {"disk0-format"}).identifier == "disk1"
    assert devices.named(FunctionPlan("0000:3b:02.0"), "web1", ()) == FunctionPlan("0000:3b:02.0", identifier="host0")


@pytest.mark.parametrize("name", ["nic0", "a b", "-x", "x" * 65, "nic0\n"])
def test_a_name_that_is_taken_or_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"already|cannot be the name") as caught:
        devices.named(NicPlan("br0", identifier=name), "web1", {"nic0-net"})
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("0000:3b:00.0/*", ("fast",)),
        ("0000:3b:00.1/*", ()),
        ("0000:3B:02.0", ("fast",)),
        ("8086:154C", ("fast",)),
        ("8086:1572", ()),
        ("0000:3b:00.0", ()),
    ],
)
def test_a_pool_has_the_functions_that_its_words_mean(selector: str, selected: tuple[str, ...]) -> None:
    pool = DevicePool("fast", (devices.selector(selector),))
    (found,) = devices.with_pools([VF], [pool, DevicePool("other", ("1234:5678",))])
    assert found.pools == selected


@pytest.mark.parametrize("words", ["", "*", "eth0", "3b:00.0/*", "8086:15", "0000:3b:00.0/**", "8086:154c/*", "a:b:c"])
def test_what_means_no_functions_is_refused(words: str) -> None:
    with pytest.raises(InputError, match="names no PCI functions"):
        devices.selector(words)


@given(st.text(max_size=20))
def test_any_words_are_taken_or_refused(words: str) -> None:
    with contextlib.suppress(InputError):
        assert devices.selector(words) == words.strip().lower()


@pytest.mark.parametrize(
    "taken", [replace(VF, guest="web1"), replace(VF, up=True), replace(VF, vfs=2), replace(VF, group="")]
)
def test_a_function_is_free_when_nobody_needs_it_and_it_can_be_given(taken: PciFunction) -> None:
    assert devices.HostFunction(VF, ()).free
    assert not devices.HostFunction(taken, ()).free


def test_functions_of_the_host_are_left_out_of_how_a_guest_is_started() -> None:
    argv = (
        *("qemu", "-device", "virtio-net-pci,netdev=n0", "-device", "vfio-pci,host=0000:3b:02.0,id=host0"),
        *(
            "-device",
            '{"driver": "vfio-pci", "id": "host1", "host": "3b:02.1"}',
            "-device",
            "vfio-pci,host=0000:3b:02.2",
        ),
    )
    kept = devices.without_functions(argv, {"0000:3b:02.0", "0000:3b:02.1"})
    assert kept == ("qemu", "-device", "virtio-net-pci,netdev=n0", "-device", "vfio-pci,host=0000:3b:02.2")
