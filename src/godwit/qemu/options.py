"""QEMU's command line as an ordered list of options. Pure.

How QEMU reads it (system/vl.c, lookup_opt): `--name` is `-name`, names are never abbreviated, an option either
always or never takes the next argument as its value, and what does not begin with "-" is the image of the first disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

FLAGS: Final = frozenset(
    """
    ? S alt-grab async-teardown audio-help ctrl-grab curses daemonize enable-fips enable-kvm enable-sync-profile
    full-screen h help jitdump mem-prealloc no-acpi no-fd-bootchk no-hpet no-kvm no-quit no-reboot no-shutdown
    no-user-config nodefaults nographic old-param only-migratable perfmap portrait preconfig s sdl semihosting
    singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict
    """.split()  # noqa: SIM905 - a table that a person can read
)
"""Options without a value, of QEMU 5 to 10 on all architectures."""

VALUED: Final = frozenset(
    """
    D L M accel acpitable action add-fd append audio audiodev balloon bios blockdev boot bt cdrom chardev chroot
    clock compat cpu d debugcon device dfilter display drive dtb dump-vmstate echr fda fdb fsdev fw_cfg g gdb
    global hda hdb hdc hdd icount incoming initrd iscsi k kernel loadvm m machine mem-path mon monitor msg
    mtdblock name net netdev nic numa object option-rom overcommit parallel pflash pidfile plugin prom-env qmp
    qmp-pretty qtest qtest-log readconfig realtime rotate rtc run-with runas sandbox sd seed semihosting-config
    serial set shim smbios smp smb soundhw spice tb-size tftp tpmdev trace usbdevice uuid vga virtfs virtfs_synth
    virtioconsole vnc watchdog watchdog-action writeconfig xen-domid
    """.split()  # noqa: SIM905 - a table that a person can read
)
"""Options that take a value, of QEMU 5 to 10 on all architectures."""


class CommandLineError(ValueError):
    """A command line is not one that QEMU takes, or has options that this table does not know."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name ("" for a bare disk image), its value, and how many dashes the name was written with."""

    name: str
    value: str | None = None
    dashes: int = 1

    def words(self) -> tuple[str, ...]:
        """Return the arguments that make up this option."""
        if not self.name:
            return (self.value or "",)
        flag = "-" * self.dashes + self.name
        return (flag,) if self.value is None else (flag, self.value)


def parse(arguments: Iterable[str]) -> tuple[Option, ...]:
    """Read the arguments that follow the program's name.

    Raises CommandLineError for an unknown option or one without its value.
    """
    found: list[Option] = []
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            found.append(Option("", word))
            continue
        dashes = 2 if word.startswith("--") else 1
        name = word[dashes:]
        if name in FLAGS:
            found.append(Option(name, None, dashes))
        elif name in VALUED:
            value = next(words, None)
            if value is None:
                message = f"{word} lacks its value"
                raise CommandLineError(message)
            found.append(Option(name, value, dashes))
        else:
            message = f"{word} is no option of QEMU that Godwit knows"
            raise CommandLineError(message)
    return tuple(found)


def render(found: Iterable[Option]) -> tuple[str, ...]:
    """Return the arguments that `found` was read from."""
    return tuple(word for option in found for word in option.words())
