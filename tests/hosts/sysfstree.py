"""A folder tree as the kernel's sysfs has it for PCI functions, and a thread that plays the kernel behind its files."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HOST_PF = "0000:3b:00.0"
FREE_PF = "0000:3b:00.1"
VFS = ("0000:3b:02.0", "0000:3b:02.1")
DISK = "0000:00:02.0"

_IP = """#!/bin/sh
case $* in
"-j link show dev "*) cat {root}/ip.says 2>/dev/null; exit ;;
"link show dev "*) cat {root}/ip.shows 2>/dev/null; exit ;;
esac
echo "$*" >> {root}/ip.log
[ ! -e {root}/ip.fails ] || {{ echo "RTNETLINK answers: Operation not permitted" >&2; exit 2; }}
"""


@dataclass
class Tree:
    """The tree below `root`. A driver in `deaf` does not take what it is given."""

    root: Path
    deaf: set[str] = field(default_factory=set)
    _pipes: dict[int, tuple[str, Path]] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _kernel: threading.Thread | None = None

    @property
    def pci(self) -> Path:
        return self.root / "sys/bus/pci"

    def device(self, address: str) -> Path:
        return self.pci / "devices" / address

    def driver(self, address: str) -> str:
        link = self.device(address) / "driver"
        return link.resolve().name if link.exists() else ""

    def plant(
        self,
        address: str,
        kind: str,
        driver: str,
        *,
        group: str = "",
        net: str = "",
        up: bool = False,
        what: str = "0x020000",
    ) -> None:
        """Add a PCI function."""
        place = self.device(address)
        place.mkdir(parents=True)
        vendor, device = kind.split(":")
        for name, text in {
            "class": what,
            "vendor": f"0x{vendor}",
            "device": f"0x{device}",
            "driver_override": "",
        }.items():
            (place / name).write_text(text + "\n")
        self.add_driver(driver)
        self.bind(address, driver)
        if group:
            members = self.root / "sys/kernel/iommu_groups" / group / "devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / address).symlink_to(place)
            (place / "iommu_group").symlink_to(members.parent)
        if net:
            (place / "net" / net).mkdir(parents=True)
            (place / "net" / net / "flags").write_text("0x1003\n" if up else "0x1002\n")

    def add_virtual(self, physical: str, addresses: tuple[str, ...], *, total: int) -> None:
        """Make functions the virtual ones of another."""
        (self.device(physical) / "sriov_totalvfs").write_text(f"{total}\n")
        (self.device(physical) / "sriov_numvfs").write_text(f"{len(addresses)}\n")
        for number, address in enumerate(addresses):
            (self.device(address) / "physfn").symlink_to(self.device(physical))
            (self.device(physical) / f"virtfn{number}").symlink_to(self.device(address))

    def add_driver(self, name: str) -> None:
        place = self.pci / "drivers" / name
        if not place.is_dir():
            place.mkdir(parents=True)
            self._listen(place / "unbind", "unbind")

    def bind(self, address: str, driver: str) -> None:
        (self.device(address) / "driver").symlink_to(self.pci / "drivers" / driver)

    def start(self) -> None:
        """Let the kernel work."""
        self._listen(self.pci / "drivers_probe", "probe")
        self._kernel = threading.Thread(target=self._work)
        self._kernel.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._kernel is not None:
            self._kernel.join()
        for pipe in self._pipes:
            os.close(pipe)

    def _listen(self, path: Path, what: str) -> None:
        os.mkfifo(path)
        self._pipes[os.open(path, os.O_RDWR | os.O_NONBLOCK)] = (what, path)

    def _work(self) -> None:
        while not self._stopping.is_set():
            ready, _, _ = select.select(list(self._pipes), [], [], 0.02)
            for pipe in ready:
                with contextlib.suppress(BlockingIOError):
                    what, path = self._pipes[pipe]
                    for address in os.read(pipe, 4096).decode().split():
                        self._obey(what, path, address)

    def _obey(self, what: str, path: Path, address: str) -> None:
        link = self.device(address) / "driver"
        if what == "unbind":
            if self.driver(address) == path.parent.name and path.parent.name not in self.deaf:
                link.unlink()
        elif not link.exists():
            named = (self.device(address) / "driver_override").read_text().strip()
            own = {"154c": "iavf", "1572": "i40e"}[(self.device(address) / "device").read_text().strip()[2:]]
            if (named or own) not in self.deaf:
                self.bind(address, named or own)

    def ip_calls(self) -> list[str]:
        log = self.root / "ip.log"
        return log.read_text().splitlines() if log.exists() else []


def build(root: Path) -> Tree:
    """Return a host with a NIC of two ports: one the host's own, with two virtual functions, one free."""
    tree = Tree(root)
    tree.plant(DISK, "1af4:1042", "virtio-pci", group="1", what="0x018000")
    tree.plant(HOST_PF, "8086:1572", "i40e", group="40", net="ens1f0", up=True)
    tree.plant(FREE_PF, "8086:1572", "i40e", group="41", net="ens1f1")
    for number, address in enumerate(VFS):
        tree.plant(address, "8086:154c", "iavf", group=str(60 + number), net=f"ens1f0v{number}")
    tree.add_virtual(HOST_PF, VFS, total=64)
    tree.add_driver("vfio-pci")
    program = root / "bin" / "ip"
    program.parent.mkdir()
    program.write_text(_IP.format(root=root))
    program.chmod(0o755)
    tree.start()
    return tree
