"""The plan: names and addresses follow from the number, and nothing impossible can be asked for."""

from __future__ import annotations

import ipaddress

import pytest

from godwit.errors import InputError, InvalidNameError, LabError
from godwit.lab import plan as names
from godwit.lab.plan import LabPlan


def test_addresses_follow_from_the_number() -> None:
    plan = LabPlan("demo", number=7)
    assert plan.controller_address == "198.18.7.1"
    assert plan.management_address("client") == "198.18.7.2"
    assert plan.management_address("host1") == "198.18.7.11"
    assert plan.management_address("host2") == "198.18.7.12"
    assert plan.migration_address("host2") == "198.19.7.12"
    assert plan.guest_address(0) == "198.18.7.100"
    assert plan.guest_address(154) == "198.18.7.254"


def test_a_plan_without_a_number_has_no_addresses() -> None:
    plan = LabPlan("demo")
    with pytest.raises(LabError, match="no number yet"):
        plan.management_address("host1")
    assert plan.numbered(3).management_address("host1") == "198.18.3.11"


@pytest.mark.parametrize("number", [0, 9, 255])
def test_no_two_machines_share_a_name_or_an_address(number: int) -> None:
    plan = LabPlan("demo", hosts=names.MAX_HOSTS, number=number)
    addresses = [plan.controller_address, *(plan.management_address(name) for name in plan.machine_names)]
    addresses += [plan.migration_address(host) for host in plan.host_names]
    addresses += [plan.guest_address(index) for index in range(155)]
    macs = [plan.hardware_address(host, link) for host in plan.host_names for link in ("bridge", "uplink", "migration")]
    macs.append(plan.hardware_address("client", "uplink"))
    assert len(set(addresses)) == len(addresses)
    assert len(set(macs)) == len(macs)
    assert len(set(plan.namespaces)) == names.MAX_HOSTS + 2
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network("198.18.0.0/15") for address in addresses)


def test_interface_names_fit_the_kernel() -> None:
    plan = LabPlan("x" * 32, hosts=names.MAX_HOSTS, number=255)
    interfaces = [plan.controller_interface, names.HOST_UPLINK, names.HOST_BRIDGE, names.MIGRATION_BRIDGE]
    interfaces += [names.switch_port(name) for name in plan.machine_names]
    interfaces += [names.migration_port(name) for name in plan.host_names]
    assert max(len(name) for name in interfaces) <= 15


@pytest.mark.parametrize("name", ["demo", "a", "_", "0", "Lab_1.x-y", "x" * 32])
def test_good_names(name: str) -> None:
    assert LabPlan(name).name == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-x", ".lock", "a/b", "a b", "a;b", "a'b", 'a"b', "a\n", "ü", "$(x)", "x" * 33, "x" * 200],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        LabPlan(name)
    assert "letters" in caught.value.remedy


@pytest.mark.parametrize("hosts", [0, -1, 81])
def test_bad_numbers_of_hosts(hosts: int) -> None:
    with pytest.raises(InputError, match="1 to 80 hosts"):
        LabPlan("demo", hosts=hosts)


@pytest.mark.parametrize("number", [-1, 256])
def test_bad_numbers(number: int) -> None:
    with pytest.raises(InputError, match="0 to 255"):
        LabPlan("demo", number=number)


@pytest.mark.parametrize("rate", [0, -5, 999_999])
def test_bad_rates(rate: int) -> None:
    with pytest.raises(InputError, match="at least"):
        LabPlan("demo", link_rate=rate)


def test_unknown_machines_are_refused_with_those_that_exist() -> None:
    plan = LabPlan("demo", number=1)
    with pytest.raises(InputError) as caught:
        plan.management_address("host3")
    assert "host1, host2" in caught.value.remedy
    with pytest.raises(InputError):
        plan.namespace("../etc")
    with pytest.raises(InputError):
        plan.guest_address(155)
