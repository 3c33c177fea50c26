"""What the console says of its commands, and how it reads what QEMU prints."""

from __future__ import annotations

import pytest

from godwit.console import commands

HELP_10 = (
    "announce_self [interfaces] [id] -- Trigger GARP/RARP announcements\n"
    "cont|c  -- resume emulation\n"
    "drive_add [-n] [[<domain>:]<bus>:]<slot>\n[file=file][,if=type][,bus=n]\n[,unit=m] -- add drive\n"
    "help|? [cmd] -- show the help\n"
    "migrate [-d] [-r] uri -- migrate to URI (using -d to not wait for completion)\n"
    "\t\t\t -r to resume a paused postcopy migration\n"
    "migrate_cancel  -- cancel the current VM migration\n"
    "migrate_set_capability capability state -- Enable/Disable\n"
    "migrate_set_parameter parameter value -- Set the parameter for migration\n"
    "migrate_start_postcopy  -- Followup to a migration command\n"
    "x /fmt addr -- virtual memory dump starting at 'addr'\n"
)
HELP_7 = HELP_10.replace("[-d] [-r] uri", "[-d] [-b] [-i] [-r] uri").replace("postcopy migration", "migration")
BLOCKS = (
    "Migration status: active\ntransferred disk: 3000 kbytes\nremaining disk: 5192 kbytes\ntotal disk: 8192 kbytes\n"
)


def test_the_seeds_help_is_word_for_word() -> None:
    assert commands.MIGRATE.line.startswith(
        "migrate [-d] [-b] [-i] [-r] uri -- migrate to URI (using -d to not wait for completion)\n"
        "\t\t\t -b for migration without shared storage with full copy of disk\n"
        "\t\t\t -i for migration without shared storage with incremental copy of disk "
        "(base image shared between src and destination)\n"
    )
    assert commands.SET_SPEED.line == (
        "migrate_set_speed value -- set maximum speed (in bytes) for migrations. "
        "Defaults to MB if no size suffix is specified, ie. B/K/M/G/T\n"
    )
    assert commands.SET_DOWNTIME.line == (
        "migrate_set_downtime value -- set maximum tolerated downtime (in seconds) for migrations\n"
    )


def test_the_whole_help_has_ours_in_their_places() -> None:
    text = commands.whole_help(HELP_10)
    names = commands.names_in(text)
    assert names == sorted(names, key=lambda name: name.replace("?", "help").replace("c", "cont", name == "c"))
    assert text.count("\nmigrate [") == 1
    assert commands.NO_DISKS_NOTE in text
    assert text.index("migrate_set_capability") < text.index("migrate_set_downtime") < text.index("migrate_set_param")
    assert text.index("migrate_set_parameter") < text.index("migrate_set_speed") < text.index("migrate_start_postcopy")
    assert "[,unit=m] -- add drive\n" in text
    assert "-r to resume a paused postcopy migration" not in text


def test_a_qemu_that_still_copies_disks_keeps_its_own_entry() -> None:
    text = commands.whole_help(HELP_7)
    assert commands.NO_DISKS_NOTE not in text
    assert HELP_7[: HELP_7.index("migrate_set_param")] in text.replace(commands.SET_DOWNTIME.line, "")


def test_names_are_found_in_what_help_prints() -> None:
    assert commands.names_in(HELP_10)[:6] == ["announce_self", "cont", "c", "drive_add", "help", "?"]
    info = "info block [-n] [device] -- show\ninfo migrate  -- show migration status\n"
    assert commands.names_in(info, "info") == ["block", "migrate"]
    assert commands.names_in("") == []


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("", False),
        ("VM status: running\n", False),
        ("unknown command: 'x'\n", True),
        ("Error: unknown migration protocol: foo:bar\n", True),
        ('migrate: string expected\nTry "help migrate" for more information\n', True),
        ("a hint first\nError: and then no\n", True),
        ("the word Error: in the midst of it\n", False),
    ],
)
def test_a_refusal_is_known_by_its_words(text: str, refused: bool) -> None:  # noqa: FBT001 - a parameter of the table
    assert commands.is_refusal(text) is refused


def test_what_no_keyboard_makes_is_no_command() -> None:
    assert commands.untypeable("info status") is None
    assert commands.untypeable("info\tstatus") is None
    assert commands.untypeable("迁移") is None
    assert commands.untypeable("st\0op") == "unknown command: 'st\\x00op'\n"
    assert commands.untypeable("\udcff\udcfe x") == "unknown command: '\\udcff\\udcfe'\n"
    assert commands.untypeable("x" * commands.LONGEST) is None
    assert commands.untypeable("x" * 5000) == "Error: the line has 5000 characters, and the monitor takes 4095\n"


@pytest.mark.parametrize(
    ("info", "percent"),
    [
        ("Migration status: active\ntransferred ram: 1 kbytes\n", None),
        (BLOCKS, 36),
        (BLOCKS.replace("5192", "0"), 100),
        (BLOCKS.replace("8192", "0"), None),
        ("", None),
    ],
)
def test_how_much_of_the_disks_is_copied(info: str, percent: int | None) -> None:
    assert commands.disk_percent(info) == percent
