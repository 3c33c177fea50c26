"""Bad input and trouble before the stream: a clear message, the right exit status, a mend, and nothing lost."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - short looks at this very machine, while nothing else has to go on

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from labtools import CRAWL
from labwaits import until

from godwit.errors import (
    AuthenticationError,
    BusyError,
    HostKeyError,
    HostUnreachableError,
    InputError,
    JournalError,
    MigrationFailedError,
    RefusedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from labtools import Ground, Ran

    from godwit.errors import GodwitError
    from godwit.lab.laboratory import Laboratory

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]


def assert_told(ran: Ran, status: int | type[GodwitError], *words: str) -> None:
    """Assert the exit status, an error on stderr with these words, and a mend."""
    assert ran.status == (status if isinstance(status, int) else status.exit_status), ran
    assert "godwit: error: " in ran.err
    assert "mend: " in ran.err
    for word in words:
        assert word in ran.err, ran.err


# -- names ----------------------------------------------------------------------------------------------------------

BAD_NAMES: Final = (
    "a b",
    "it's",
    'say"so"',
    "x; touch /tmp/godwit-was-here",
    "$(reboot)",
    "../../etc",
    "x" * 200,
    "",
    "-n",
)


@pytest.mark.long
async def test_a_bad_name_is_refused_everywhere_and_reaches_no_shell(ground: Ground, tmp_path: Path) -> None:
    url = f"ssh://root@{ground.lab.hosts['host1'].ssh_address}"
    commands = []
    for number, name in enumerate(BAD_NAMES):
        definition = tmp_path / f"guest{number}.toml"
        words = name.replace("\\", "\\\\").replace('"', '\\"')
        definition.write_text(f'name = "{words}"\nmemory = "64M"\n')
        four = (
            ("vm", "define", "--on", ground.host("host1"), str(definition)),
            ("host", "add", "--", name, url),
            ("migrate", "--", name, ground.host("host2")),
            ("migrate", "--", ground.name, name),
        )
        commands += [four[0], four[1 + number % 3]]
    for command in commands:
        ran = await ground.godwit(*command)
        assert ran.status == 2, (command, ran)
        assert ran.err.startswith("godwit: error: ")
    assert not Path("/tmp/godwit-was-here").exists()
    await ground.assert_settled((await ground.whereabouts())[0])


async def test_unknown_guest_and_host_and_the_same_host(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    assert_told(await ground.godwit("migrate", "nobody", ground.host(there)), InputError, "nobody", "known")
    assert_told(await ground.godwit("migrate", ground.name, "nowhere"), InputError, "nowhere", ground.host(there))
    assert_told(await ground.godwit("migrate", ground.name, ground.host(here)), InputError, "already")
    assert_told(await ground.godwit("show", "nothing"), InputError, "nothing")
    assert_told(
        await ground.godwit("migrate", ground.name, ground.host(there), "--probe", "ftp://x"), InputError, "--probe"
    )


async def test_malformed_definitions_name_line_and_key(ground: Ground, tmp_path: Path) -> None:
    path = tmp_path / "guest.toml"
    for text, word in (
        ('name = "a"\nmemory = \n', "line 2"),
        ('name = "a"\nmemory = "64M"\nmemroy = 3\n', "memroy"),
        ('name = "a"\nmemory = "much"\n', "memory"),
        ('name = "a"\nmemory = "64M"\n[[disks]]\nformat = "raw"\n', "path"),
    ):
        path.write_text(text)
        ran = await ground.godwit("vm", "define", "--on", ground.host("host1"), str(path))
        assert ran.status == 2, ran
        assert word in ran.err
        assert str(path.name) in ran.err


# -- hosts ------------------------------------------------------------------------------------------------------------


async def refused(
    ground: Ground, target: str, status: int | type[GodwitError], *words: str, options: tuple[str, ...] = ()
) -> None:
    """Try to move to a registered host; the guest must stay as it was."""
    here, _ = await ground.whereabouts()
    async with ground.client():
        assert_told(await ground.godwit("migrate", ground.name, target, *options), status, *words)
    await ground.assert_settled(here)


async def add_host(ground: Ground, name: str, machine: str, *options: str) -> Ran:
    """Register a machine of the laboratory under another name."""
    address = ground.lab.hosts[machine].ssh_address if machine != "client" else ground.lab.client.ssh_address
    return await ground.godwit("host", "add", name, f"ssh://root@{address}", "--no-agent", *options)


def key_options(ground: Ground) -> tuple[str, ...]:
    client = ground.lab.client
    return "--identity", str(client.key_file), "--known-hosts", str(client.known_hosts)


async def test_the_target_is_down(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.lab.crash(there)
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there))
        assert_told(ran, ran.status, ground.host(there))
        assert ran.status in {HostUnreachableError.exit_status, MigrationFailedError.exit_status}
    assert ground.run_state(await ground.qemu(here)) == "running"


async def test_wrong_key_unknown_host_key_and_changed_host_key(ground: Ground, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    known = ground.lab.client.known_hosts
    nobody = tmp_path / "nobody"
    nobody.write_text("")
    changed = tmp_path / "changed"
    public = stranger.with_suffix(".pub").read_text().split()
    changed.write_text(f"{ground.lab.hosts['host2'].ssh_address} {public[0]} {public[1]}\n")
    key = str(ground.lab.client.key_file)
    for name, identity, hosts, error in (
        ("wrong-key", str(stranger), known, AuthenticationError),
        ("unknown-key", key, nobody, HostKeyError),
        ("changed-key", key, changed, HostKeyError),
    ):
        ran = await add_host(ground, name, "host2", "--identity", identity, "--known-hosts", str(hosts))
        assert_told(ran, error)
        assert name not in (await ground.godwit("host", "list")).out


@pytest.mark.long
async def test_a_host_without_qemu(ground: Ground) -> None:
    """The client has no bridge, and its QEMU is taken away: both are told."""
    ran = await add_host(ground, "bare", "client", *key_options(ground))
    assert ran.status == 0, ran.err
    await refused(ground, "bare", RefusedError)
    program = ground.inside("client", "sh", "-c", "command -v qemu-system-x86_64 || true").strip()
    if program:
        ground.inside("client", "mount", "--bind", "/dev/null", program)
    ran = await ground.godwit("check", ground.name, "bare")
    assert ran.status == RefusedError.exit_status
    assert "has no qemu-system-x86_64" in ran.out
    assert "no bridge br0" in ran.out


# -- what preflight sees ---------------------------------------------------------------------------------------------


async def test_another_guest_has_the_name_on_the_target(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    argv = ["qemu-system-x86_64", "-name", ground.name, "-machine", "none", "-display", "none", "-S"]
    with subprocess.Popen(ground.lab.command(there, argv), stdout=subprocess.DEVNULL) as other:
        try:
            await until(lambda: bool(ground.qemus()[there]), "the other guest")
            here, _ = await ground.whereabouts()
            ran = await ground.godwit("migrate", ground.name, ground.host(there))
            assert_told(ran, RefusedError, ground.name)
            assert ground.run_state(await ground.qemu(here)) == "running"
            assert other.poll() is None, "somebody else's QEMU was ended"
        finally:
            other.terminate()


async def test_the_bridge_is_missing(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    await refused_with(
        ground, there, ["ip", "link", "set", "br0", "name", "br9"], ["ip", "link", "set", "br9", "name", "br0"], "br0"
    )


async def refused_with(ground: Ground, machine: str, do: list[str], undo: list[str], word: str) -> None:
    ground.inside(machine, *do)
    try:
        await refused(ground, ground.host(machine), RefusedError, word)
    finally:
        ground.inside(machine, *undo)


async def test_the_disk_is_missing_or_another_file_of_the_same_name(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.inside(there, "mount", "-t", "tmpfs", "none", "/mnt/images")
    try:
        await refused(ground, ground.host(there), RefusedError, "has no /mnt/images", options=("--disks", "shared"))
        ground.inside(there, "qemu-img", "create", "-q", "-f", "qcow2", f"/mnt/images/{ground.name}.qcow2", "64M")
        await refused(ground, ground.host(there), RefusedError, "different files")
    finally:
        ground.inside(there, "umount", "/mnt/images")
    assert here != there


async def test_memory_is_short(ground: Ground) -> None:
    """The target claims to have little: its /proc/meminfo is another file's."""
    _, there = await ground.whereabouts()
    fake = "MemTotal: 300000 kB\nMemFree: 90000 kB\nMemAvailable: 100000 kB\n"
    put = ["sh", "-c", 'printf "$1" > /run/meminfo && mount --bind /run/meminfo /proc/meminfo', "sh", fake]
    await refused_with(ground, there, put, ["umount", "/proc/meminfo"], "memory")


async def test_the_targets_qemu_dies_at_its_start_and_its_words_are_shown(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    ground.inside(there, "mount", "-t", "tmpfs", "none", "/run/godwit")
    folder = ground.lab.images(there)
    kernel = folder / f"{ground.name}.vmlinuz"
    hidden = kernel.with_suffix(".hidden")
    kernel.rename(hidden)
    try:
        await refused(ground, ground.host(there), MigrationFailedError, "could not open kernel file")
    finally:
        hidden.rename(kernel)
        ground.inside(there, "umount", "/run/godwit")


async def test_two_migrations_of_one_guest_at_once(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        move = await (await ground.begin(there)).streams(1)
        ran = await ground.godwit("migrate", ground.name, ground.host(there))
        assert_told(ran, BusyError, move.id)
        ran = await ground.godwit("vm", "stop", "--force", ground.name)
        assert ran.status == BusyError.exit_status
        assert (await ground.godwit("cancel", move.id)).status == 0
    await ground.assert_settled(here)


# -- Godwit's own folder ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a small file system of its own with these options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_a_folder_that_cannot_be_written(ground: Ground, small_disk: Callable[[str], Path]) -> None:
    place = small_disk("size=1m,ro,mode=0700")
    for command in (("status",), ("migrate", ground.name, ground.host("host2"))):
        ran = await ground.godwit(*command, GODWIT_HOME=str(place / "godwit"))
        assert_told(ran, JournalError, str(place), "GODWIT_HOME")


async def test_the_journals_disk_is_full_before_the_move(ground: Ground, small_disk: Callable[[str], Path]) -> None:
    """No move begins that could not be journalled; the guest does not notice."""
    here, there = await ground.whereabouts()
    place = small_disk("size=4m,mode=0700")
    subprocess.run(["cp", "-a", f"{ground.home}/journal.db", str(place)], check=True)
    fill(place / "filler")
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there), GODWIT_HOME=str(place))
        assert_told(ran, JournalError, str(place))
    assert ground.run_state(await ground.qemu(here)) == "running"
    assert ground.qemus()[there] == ()


async def test_the_journals_disk_fills_up_during_the_move(ground: Ground, small_disk: Callable[[str], Path]) -> None:
    """The move ends or goes back, on the space that was kept for that; the guest is on one side only."""
    here, there = await ground.whereabouts()
    place = small_disk("size=6m,mode=0700")
    subprocess.run(["cp", "-a", f"{ground.home}/journal.db", str(place)], check=True)
    ground.lab.set_rate(CRAWL)
    home, ground.home = ground.home, place
    try:
        async with ground.client():
            move = await (await ground.begin(there)).streams(1)
            fill(place / "filler")
            ground.lab.set_rate(None)
            outcome = await move.outcome(90)
        here, _ = await ground.whereabouts()
        assert (here == there) == (outcome.status.value == "completed")
        await ground.assert_settled(here)
        (place / "filler").unlink()
    finally:
        ground.home = home
        if here == there:
            await ground.record_home(there)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError:
        return
    finally:
        os.close(descriptor)


# -- hosts without shared storage -----------------------------------------------------------------------------------


@pytest.mark.long
async def test_separate_storage_is_refused_where_nothing_may_be_copied(
    ground: Ground, build_lab: Callable[..., Laboratory]
) -> None:
    from labtools import Ground as Another  # noqa: PLC0415 - the name is taken by the fixture's type above

    lab = build_lab(shared_storage=False, link_rate=None)
    other = Another(lab, ground.assets, ground.home / "separate")
    await other.settle()
    here, there = await other.whereabouts()
    async with other.client():
        ran = await other.godwit("migrate", other.name, other.host(there), "--disks", "shared")
        assert_told(ran, RefusedError, f"{other.name}.qcow2")
    assert other.run_state(await other.qemu(here)) == "running"
    assert other.qemus()[there] == ()
