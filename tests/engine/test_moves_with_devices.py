"""Moves of guests with a device that does not travel: taken out, given back, whoever fails at whatever instant."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from stage import Stage, simulate, stage

from godwit.core.state import Phase
from godwit.engine.devices import LATE
from godwit.hosts.fakedirect import FakeDirect
from godwit.model import (
    DeviceChoice,
    DevicePolicy,
    DevicePool,
    HostRecord,
    OutcomeStatus,
    PciFunction,
    Policy,
    Side,
    Way,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import Outcome

COMPLETED, FAILED, CANCELLED = OutcomeStatus.COMPLETED, OutcomeStatus.FAILED, OutcomeStatus.CANCELLED
UNPLUG: Final = (DeviceChoice("nic1", DevicePolicy.UNPLUG),)
EMULATED, PAIRED = "vmxnet3,id=nic1", "vmxnet3,id=nic1,failover_pair_id=nic0"
FUNCTION: Final = "vfio-pci,id=nic1,host=0000:01:00.1"
HERE, THERE = "0000:01:00.1", "0000:03:02.4"
FREE: Final = PciFunction(THERE, "8086", "1520", "iavf", "70", physical="0000:03:00.0")
WAY = (Phase.PREPARING, Phase.UNPLUGGING, Phase.PRECOPY, Phase.SWITCHOVER)


def scene_with(device: str, choices: tuple[DeviceChoice, ...] = UNPLUG, **changes: Any) -> Stage:  # noqa: ANN401 - of a policy, or a workload
    """Two hosts, and a guest with a device on the first; it lets go of it after `lets_go` seconds."""
    policy = Policy(devices=choices, unplug_timeout=changes.pop("timeout", 5.0), way=changes.pop("way", Way.LIVE))
    made = stage(policy=policy)
    qemu = made.one.qemus["web"]
    qemu.launch = replace(qemu.launch, argv=(*qemu.launch.argv, "-device", device))
    qemu.workload = made.world.workloads["web"] = replace(qemu.workload, **changes)
    qemu.direct = FakeDirect(qemu)
    return made


def moved(made: Callable[[], Stage], prepare: Callable[[Stage], object] = lambda _: None) -> tuple[Stage, Outcome]:
    async def scenario() -> tuple[Stage, Outcome]:
        scene = made()
        prepare(scene)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        return scene, outcome

    return simulate(scenario)


def devices_of(scene: Stage) -> set[str]:
    """Return the devices that the guest has where it runs."""
    (qemu,) = (one for host in (scene.one, scene.two) for one in host.qemus.values() if one.raw == "running")
    return set(qemu.direct.there)


@pytest.mark.parametrize("way", [Way.LIVE, Way.STATIC])
def test_a_device_is_unplugged_right_before_the_stream_and_follows(way: Way) -> None:
    scene, outcome = moved(lambda: scene_with(EMULATED, way=way))
    assert (outcome.status, outcome.leftovers) == (COMPLETED, ())
    assert devices_of(scene) == {"nic1"}
    phases = list(dict.fromkeys(scene.phases()))
    assert phases.index(Phase.UNPLUGGING) == phases.index(Phase.PRECOPY) - 1
    assert "device-unplugged" in {finding.code for finding in outcome.findings}


def test_qemu_takes_one_out_that_is_paired() -> None:
    scene, outcome = moved(lambda: scene_with(PAIRED, ()))
    assert (outcome.status, outcome.leftovers) == (COMPLETED, ())
    assert devices_of(scene) == {"nic1"}
    assert Phase.UNPLUGGING not in scene.phases()


@pytest.mark.parametrize(("device", "choices"), [(EMULATED, UNPLUG), (PAIRED, ())])
def test_a_guest_that_never_lets_go_stays_with_its_device(device: str, choices: tuple[DeviceChoice, ...]) -> None:
    scene, outcome = moved(lambda: scene_with(device, choices, lets_go=None))
    assert outcome.status is FAILED
    assert "did not let go of nic1 within 5.00 s" in outcome.error
    assert "--unplug-timeout" in outcome.remedy
    assert devices_of(scene) == {"nic1"}
    if choices:
        assert any("may yet let go of nic1" in left and "device_add" in left for left in outcome.leftovers)


def test_a_guest_may_take_longer_than_a_stream_may_stand_still() -> None:
    _, outcome = moved(lambda: scene_with(PAIRED, (), lets_go=17.0, timeout=30.0))
    assert outcome.status is COMPLETED


def test_one_that_lets_go_too_late_has_it_again() -> None:
    scene, outcome = moved(lambda: scene_with(EMULATED, lets_go=5.0 + LATE / 2))
    assert (outcome.status, outcome.leftovers) == (FAILED, ())
    assert devices_of(scene) == {"nic1"}


@pytest.mark.parametrize("phase", WAY)
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_whoever_ends_it_the_device_is_back(phase: Phase, delay: float) -> None:
    scene, outcome = moved(lambda: scene_with(EMULATED), lambda made: made.at(phase, made.cancel, delay))
    assert outcome.status in {CANCELLED, COMPLETED}
    assert devices_of(scene) == {"nic1"}
    assert outcome.leftovers == ()


@pytest.mark.parametrize("phase", WAY)
def test_a_target_that_dies_leaves_the_device_where_it_was(phase: Phase) -> None:
    def prepare(made: Stage) -> None:
        def kill() -> None:
            if made.two.qemus:
                made.world.kill("two", "web")

        made.at(phase, kill, 0.05)

    scene, outcome = moved(lambda: scene_with(EMULATED), prepare)
    assert outcome.status in {FAILED, COMPLETED, OutcomeStatus.GUEST_CRASHED}
    assert outcome.status is OutcomeStatus.GUEST_CRASHED or devices_of(scene) == {"nic1"}


def test_a_pair_whose_stream_went_through_for_nothing_is_apart_and_that_is_said() -> None:
    def prepare(made: Stage) -> None:
        def be_out_of_reach() -> None:
            made.world.cut("one")
            asyncio.get_running_loop().call_later(20.0, made.world.heal, "one")

        made.at(Phase.SWITCHOVER, be_out_of_reach)

    scene, outcome = moved(lambda: scene_with(PAIRED, ()), prepare)
    assert (outcome.status, devices_of(scene)) == (FAILED, set())
    (left,) = outcome.leftovers
    assert "without nic1" in left
    assert "next move" in left


@pytest.mark.parametrize("phase", [*WAY, Phase.FINISHING])
@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_another_runner_gives_the_device_back(phase: Phase, delay: float) -> None:
    scene, outcome = moved(lambda: scene_with(EMULATED), lambda made: made.at(phase, made.world.drop_controller, delay))
    assert outcome.status is COMPLETED or (outcome.status is FAILED and phase in {Phase.PREPARING, Phase.PRECOPY})
    assert devices_of(scene) == {"nic1"}


def with_functions(made: Stage, *, there: bool) -> None:
    own = PciFunction(
        HERE, "8086", "1520", "vfio-pci", "60", former="iavf", guest="web", mac="52:54:00:00:00:07", vlan=5
    )
    made.one.pci[HERE] = own
    if there:
        made.two.pci[THERE] = FREE


def test_a_part_of_the_host_gets_its_match_with_its_address_and_vlan() -> None:
    scene, outcome = moved(lambda: scene_with(FUNCTION), lambda made: with_functions(made, there=True))
    assert (outcome.status, outcome.leftovers) == (COMPLETED, ())
    assert devices_of(scene) == {"nic1"}
    given = scene.two.pci[THERE]
    assert (given.guest, given.driver, given.mac, given.vlan) == ("web", "vfio-pci", "52:54:00:00:00:07", 5)
    assert (scene.one.pci[HERE].guest, scene.one.pci[HERE].driver) == ("", "iavf")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (THERE, True),
        ("03:02.4", True),
        ("8086:1520", True),
        ("0000:03:00.0/*", True),
        ("fast", True),
        ("slow", False),
        ("8086:1521", False),
        ("0000:03:02.5", False),
    ],
)
def test_what_may_stand_for_it_is_named_as_for_attaching(wanted: str, *, found: bool) -> None:
    def prepare(made: Stage) -> None:
        with_functions(made, there=True)
        pools = (DevicePool("fast", ("0000:03:00.0/*",)), DevicePool("slow", ("8086:10fb",)))
        made.records = {Side.TARGET: HostRecord("two", "ssh://two", pools=pools)}

    choices = (DeviceChoice("nic1", DevicePolicy.UNPLUG, wanted),)
    scene, outcome = moved(lambda: scene_with(FUNCTION, choices), prepare)
    assert outcome.status is COMPLETED
    assert devices_of(scene) == ({"nic1"} if found else set())
    assert scene.two.pci[THERE].guest == ("web" if found else "")


@pytest.mark.parametrize("change", [{"guest": "db"}, {"up": True}, {"held": True}, {"group": ""}, {"vfs": 2}])
def test_a_function_that_somebody_uses_stands_for_nothing(change: dict[str, Any]) -> None:
    def prepare(made: Stage) -> None:
        with_functions(made, there=True)
        made.two.pci[THERE] = replace(FREE, **change)

    scene, outcome = moved(lambda: scene_with(FUNCTION), prepare)
    assert outcome.status is COMPLETED
    assert devices_of(scene) == set()
    assert scene.two.pci[THERE] == replace(FREE, **change)


PAIRED_FUNCTION: Final = f"{FUNCTION},failover_pair_id=nic0"


def test_a_function_of_a_pair_is_bound_before_its_qemu_starts() -> None:
    scene, outcome = moved(lambda: scene_with(PAIRED_FUNCTION, ()), lambda made: with_functions(made, there=True))
    assert (outcome.status, outcome.leftovers) == (COMPLETED, ())
    assert devices_of(scene) == {"nic1"}
    given = scene.two.pci[THERE]
    assert (given.guest, given.driver, given.mac, given.vlan) == ("web", "vfio-pci", "52:54:00:00:00:07", 5)
    assert (scene.one.pci[HERE].guest, scene.one.pci[HERE].driver) == ("", "iavf")


def test_one_that_was_bound_for_nothing_is_given_back() -> None:
    def prepare(made: Stage) -> None:
        with_functions(made, there=True)
        made.at(Phase.PRECOPY, made.cancel, 0.05)

    scene, outcome = moved(lambda: scene_with(PAIRED_FUNCTION, ()), prepare)
    assert outcome.status is CANCELLED
    assert scene.two.pci[THERE] == FREE
    assert scene.one.pci[HERE].guest == "web"


def test_a_pair_without_a_match_stays_apart_and_that_is_said() -> None:
    scene, outcome = moved(lambda: scene_with(PAIRED_FUNCTION, ()), lambda made: with_functions(made, there=False))
    assert outcome.status is COMPLETED
    assert devices_of(scene) == set()
    assert any("two has nothing for nic1" in left for left in outcome.leftovers)


def test_without_a_match_the_guest_stays_on_its_other_nic_and_that_is_said() -> None:
    scene, outcome = moved(lambda: scene_with(FUNCTION), lambda made: with_functions(made, there=False))
    assert outcome.status is COMPLETED
    assert devices_of(scene) == set()
    assert "device-no-match" in {finding.code for finding in outcome.findings}
    assert any("two has nothing for nic1" in left for left in outcome.leftovers)


def test_what_nobody_chose_keeps_the_guest_where_it_is() -> None:
    scene, outcome = moved(lambda: scene_with(FUNCTION, ()), lambda made: with_functions(made, there=True))
    assert outcome.status is OutcomeStatus.REFUSED
    assert "--device nic1=unplug" in outcome.remedy
    assert devices_of(scene) == {"nic1"}


def test_a_target_that_refuses_it_says_so_with_the_mend() -> None:
    scene, outcome = moved(lambda: scene_with(EMULATED), lambda made: made.world.refuse("two", "device_add"))
    assert outcome.status is COMPLETED
    assert devices_of(scene) == set()
    assert any("nic1 could not be plugged in on two" in left for left in outcome.leftovers)
