"""Laboratories for the tests: real namespaces, so all of these need root."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("labtools", "labmoves", "labwaits", "diskground")

from labtools import Ground  # noqa: E402 - rewritten on import

from godwit.lab import assets, namespaces, state  # noqa: E402
from godwit.lab.laboratory import Laboratory  # noqa: E402
from godwit.lab.plan import LabPlan  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

HOST_TREE_VARIABLE = "GODWIT_LAB_HOST_TREE"


@pytest.fixture(scope="session")
def host_tree() -> Path:
    """Return the tree with the hosts' QEMU: from the environment if it is named there, else from the assets."""
    named = os.environ.get(HOST_TREE_VARIABLE)
    return Path(named) if named else assets.prepare(assets.cache_folder(), print).hosttree


@pytest.fixture
def lab_name() -> Iterator[str]:
    """Return a fresh name, and see to it that no laboratory of that name outlives the test."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    Laboratory.remove(name)


@pytest.fixture(scope="module")
def build_lab(host_tree: Path) -> Iterator[Callable[..., Laboratory]]:
    """Return a function that builds a laboratory of LabPlan's options; all of them are removed at the end."""
    built: list[Laboratory] = []

    def build(hosts: int = 2, *, link_rate: int | None = 400_000_000, shared_storage: bool = True) -> Laboratory:
        name = f"test-{secrets.token_hex(4)}"
        plan = LabPlan(name, hosts=hosts, link_rate=link_rate, shared_storage=shared_storage)
        built.append(Laboratory.up(plan, host_tree))
        return built[-1]

    yield build
    for lab in built:
        lab.down()


@pytest.fixture(scope="module")
def lab(build_lab: Callable[..., Laboratory]) -> Laboratory:
    """Return a laboratory of two hosts that the tests of one module share; each leaves it whole."""
    return build_lab()


@pytest.fixture(scope="module")
def ground(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return a laboratory with a guest on host1 that the tests of one module share, moving it to and fro."""
    prepared = assets.prepare(assets.cache_folder(), print)
    made = Ground(build_lab(link_rate=None), prepared, tmp_path_factory.mktemp("godwit"))
    asyncio.run(made.settle())
    yield made
    made.end_runners()


@pytest.fixture(scope="module")
def bare_ground(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return a laboratory whose hosts share nothing, registered, without a guest."""
    prepared = assets.prepare(assets.cache_folder(), print)
    made = Ground(build_lab(link_rate=None, shared_storage=False), prepared, tmp_path_factory.mktemp("godwit"))
    asyncio.run(made.introduce())
    yield made
    made.end_runners()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Return a function that keeps a figure of this test for the summary at the end."""

    def keep(name: str, value: object) -> None:
        request.node.user_properties.append((name, value))

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that the tests kept."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call" and report.user_properties:
                figures = ", ".join(f"{name} {value}" for name, value in report.user_properties)
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {figures}")


@pytest.fixture
def healthy(ground: Ground) -> None:
    """See to it that the laboratory is whole and that a guest runs in it."""
    asyncio.run(ground.healthy_guest())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the story of the last move under a test that failed."""
    report = yield
    ground = getattr(item, "funcargs", {}).get("ground")
    if report.failed and isinstance(ground, Ground):
        report.sections.append(("the last move, its runner and its QEMUs", ground.story()))
    return report


@pytest.fixture
def traces() -> Callable[[str, int, Path], list[str]]:
    """Return a function that lists what is left of a laboratory: its name, its number, its data folder."""
    return leftovers


def leftovers(name: str, number: int, directory: Path) -> list[str]:
    """Return what is left on the machine of the laboratory `name`."""
    found = namespaces.namespaces_of_number(number)
    found += [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(f"gwl{number}c")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if f"gwl{number}-" in line or f"/{name}/" in line]
    for entry in Path("/proc").iterdir():
        process = namespaces.ProcessId(int(entry.name), 0) if entry.name.isdigit() else None
        seen = namespaces.executable_and_arguments(process) if process and int(entry.name) != os.getpid() else None
        if seen is not None and any(f"{name}/" in argument for argument in seen[1]):
            found.append(f"{entry.name}: {seen}")
    return [*found, *(str(path) for path in (state.folder(name), directory) if path.exists())]


@pytest.fixture(scope="module")
def apart(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return a laboratory whose hosts share nothing, with a guest on host1."""
    prepared = assets.prepare(assets.cache_folder(), print)
    made = Ground(build_lab(link_rate=None, shared_storage=False), prepared, tmp_path_factory.mktemp("godwit"))
    asyncio.run(made.settle())
    yield made
    made.end_runners()
