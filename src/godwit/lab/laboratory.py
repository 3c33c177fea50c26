"""Throw-away hosts on one machine.

A host is a set of network, mount, PID and UTS namespaces with its own hostname, /etc, /var/lib, /run, sshd
and bridge. It survives the end of the command that made it, and SIGKILL to its init is a crash of the host.
What it cannot be is a machine with its own kernel: clock, CPU and page cache are shared with all others.
"""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.errors import LabError
from godwit.lab import links, machine
from godwit.lab import state as records
from godwit.lab.namespaces import (
    SEARCH_PATH,
    ProcessId,
    boot_id,
    check_machine,
    check_root,
    executable_and_arguments,
    identify_namespaces,
    kill,
    kill_residents,
    namespaces_of_number,
    remove_namespaces,
    residents,
)
from godwit.lab.plan import CLIENT, LabPlan, Link, check_name, check_rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from godwit.lab.state import LabState

BUSY_DEADLINE: Final = 15.0
_SIGNAL_STATUS: Final = 128


@dataclass(frozen=True, slots=True)
class LabMachine:
    """How to reach one machine of a laboratory from outside. `migration_address` is None for the client."""

    name: str
    ssh_address: str
    ssh_port: int
    ssh_user: str
    key_file: Path
    known_hosts: Path
    migration_address: str | None
    namespace: str
    images: Path
    log: Path


@dataclass(frozen=True, slots=True)
class RunningQemu:
    """A QEMU that runs on a host: its pid as this machine counts, and its command line."""

    pid: int
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """What one machine is now. `pid` is its init's, None after a crash; `cut` names its links that are cut."""

    name: str
    up: bool
    pid: int | None
    address: str
    migration_address: str | None
    cut: frozenset[str]
    qemus: tuple[RunningQemu, ...]


@dataclass(frozen=True, slots=True)
class LabStatus:
    """What a laboratory is now; `phase` is `building`, `up` or `removing`."""

    name: str
    phase: str
    number: int
    link_rate: int | None
    shared_storage: bool
    controller_address: str
    machines: tuple[MachineStatus, ...]


@dataclass(frozen=True, slots=True)
class Laboratory:
    """One laboratory that is up. It holds nothing open: any process may load it and go on with it."""

    name: str

    # Making, finding, removing

    @classmethod
    def up(cls, plan: LabPlan, host_tree: Path | None, directory: Path | None = None) -> Laboratory:
        """Build the laboratory `plan` and return once every machine accepts SSH.

        `host_tree`/usr is laid over the machine's /usr in every host, None leaves /usr as it is. `directory` takes
        the images and the hosts' /var/lib, and is removed with the laboratory; it must be new or empty.
        What was built is removed again if anything fails. Raises LabError with what is missing and the mend.
        """
        tree = _check_tree(host_tree)
        check_machine(tree)
        try:
            state = records.create(plan, tree, directory)
            with _lock(plan.name) as lock, ExitStack() as undo:
                undo.callback(_tear_down, state)
                _build(state, lock)
                undo.pop_all()
        except OSError as error:
            message = f"laboratory {plan.name} cannot be built: {error}"
            raise LabError(message, remedy="make room or name another directory") from error
        return cls(plan.name)

    @classmethod
    def load(cls, name: str) -> Laboratory:
        """Return the laboratory `name`; raises LabError if there is none or it is only half there."""
        found = cls(check_name(name))
        state = found._state()
        if state.phase != "up" or state.stale():
            message = f"laboratory {name} is not whole: it was left while {state.phase}"
            raise LabError(message, remedy=f"godwit lab down {name}")
        return found

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all laboratories on this machine, half-built ones too."""
        return records.names()

    @classmethod
    def remove(cls, name: str) -> bool:
        """Remove everything of the laboratory `name`, whatever state it is in; returns whether there was anything.

        Raises LabError if another process is changing it right now, or something of it cannot be removed.
        """
        check_name(name)
        check_root()
        if not records.folder(name).is_dir():
            return False
        state = records.read(name)
        if state is not None and state.stale():
            _kill_all(state)  # what a dead builder left hanging would keep the lock
        with records.locked(name, BUSY_DEADLINE) as lock:
            if lock is None:
                return False
            state = records.read(name)
            if state is None:
                records.forget_empty(name)
            else:
                _tear_down(state)
        return True

    @classmethod
    def down_stale(cls) -> tuple[str, ...]:
        """Remove the laboratories that nobody finished building or removing, and those of an earlier boot."""
        stale = [name for name in records.names() if (state := records.read(name)) is None or state.stale()]
        return tuple(name for name in stale if cls.remove(name))

    def down(self) -> None:
        """Remove everything of this laboratory; a second call does nothing. Raises as `remove` does."""
        type(self).remove(self.name)

    # Looking at it

    @property
    def plan(self) -> LabPlan:
        """The plan with its number, and with the link rate of now."""
        return self._state().plan

    @property
    def directory(self) -> Path:
        """Where images and the hosts' /var/lib are."""
        return self._state().directory

    @property
    def hosts(self) -> dict[str, LabMachine]:
        """The hosts by name, in the plan's order."""
        state = self._state()
        return {host: _describe(state, host) for host in state.plan.host_names}

    @property
    def client(self) -> LabMachine:
        """The machine from which outside probes look."""
        return _describe(self._state(), CLIENT)

    def images(self, host: str) -> Path:
        """Return the folder that `host` sees as /mnt/images, as this machine sees it."""
        return _folders(self._state(), host).images

    def status(self) -> LabStatus:
        """Look at the laboratory as it is now; raises LabError if there is none."""
        state = self._state()
        plan = state.plan
        cut = links.cut_links(plan)
        return LabStatus(
            name=plan.name,
            phase=state.phase,
            number=plan.network_number,
            link_rate=plan.link_rate,
            shared_storage=plan.shared_storage,
            controller_address=plan.controller_address,
            machines=tuple(_machine_status(state, name, cut[name]) for name in plan.machine_names),
        )

    # Running things in it

    def command(
        self, machine_name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> list[str]:
        """Return the argv that runs `argv` inside a machine, as root, in `/`, with the machine's own environment.

        The command gets SIGTERM when the process started from it ends. Raises LabError if the machine has crashed.
        """
        state = self._state()
        init = _running_init(state, machine_name)
        variables = {
            "PATH": SEARCH_PATH,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
            "HOSTNAME": machine_name,
            "GODWIT_LAB": self.name,
            **(environment or {}),
        }
        return [
            *("nsenter", f"--target={init.pid}", "--mount", "--uts", "--net", "--pid", "--"),
            *("setpriv", "--pdeathsig", "TERM", "--"),
            *("env", "--ignore-environment", *(f"{name}={value}" for name, value in variables.items())),
            *argv,
        ]

    def exec(self, machine_name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Run `argv` inside a machine on the caller's own standard streams, and return its exit status.

        A command that was killed gives 128 and the signal's number, as in a shell. Raises as `command` does.
        """
        status = subprocess.run(self.command(machine_name, argv, environment), check=False).returncode
        return status if status >= 0 else _SIGNAL_STATUS - status

    # Faults

    def crash(self, machine_name: str, *, silent: bool = False) -> None:
        """Let a machine die with everything on it; its /var/lib and its images stay.

        Its connections are closed by the kernel, so peers notice at once; with `silent` its links are cut
        before, as when the power fails. Raises LabError if it has crashed already.
        """
        with _lock(self.name):
            state = self._state()
            init = _running_init(state, machine_name)
            if silent:
                links.cut(state.plan, machine_name, "all")
            inside = identify_namespaces([state.plan.namespace(machine_name)], [init])
            kill([init])
            kill_residents(inside)

    def restart(self, machine_name: str) -> None:
        """Boot a crashed machine again, on the same /var/lib, with fresh network and whole links.

        Raises LabError if it is up, or does not come up.
        """
        with _lock(self.name) as lock:
            state = self._state()
            plan = state.plan
            if _alive(state, machine_name):
                message = f"{machine_name} of laboratory {self.name} is up"
                raise LabError(message, remedy=f"godwit lab crash {self.name} {machine_name}")
            kill_residents(identify_namespaces([plan.namespace(machine_name)], []))
            links.disconnect(plan, machine_name)  # by name and at once; removing the namespace does it some time later
            remove_namespaces([plan.namespace(machine_name)])
            links.rebuild_machine(plan, machine_name, lock)
            init = machine.start(plan, machine_name, _folders(state, machine_name), state.host_tree, lock)
            records.change(state, inits={**state.inits, machine_name: init})

    def cut(self, machine_name: str, link: Link = "migration") -> None:
        """Cut a machine's link without a sound: frames vanish, nobody gets a reset or loses the carrier."""
        with _lock(self.name):
            links.cut(self.plan, self.plan.check_machine(machine_name), link)

    def heal(self, machine_name: str, link: Link = "all") -> None:
        """Join what `cut` or a silent crash has cut; joining a whole link changes nothing."""
        with _lock(self.name):
            links.heal(self.plan, self.plan.check_machine(machine_name), link)

    def set_rate(self, rate: int | None) -> None:
        """Shape the migration link of every host to `rate` bits a second from now on; None is unshaped."""
        check_rate(rate)
        with _lock(self.name):
            state = self._state()
            links.shape(state.plan, state.plan.host_names, rate)
            records.change(state, plan=replace(state.plan, link_rate=rate))

    def _state(self) -> LabState:
        state = records.read(self.name)
        if state is None:
            message = f"there is no laboratory {self.name}"
            raise LabError(message, remedy="godwit lab up, or one of: " + (", ".join(records.names()) or "none is up"))
        return state


@contextmanager
def _lock(name: str) -> Iterator[int]:
    with records.locked(name, BUSY_DEADLINE) as lock:
        if lock is None:
            message = f"there is no laboratory {name}"
            raise LabError(message)
        yield lock


def _build(state: LabState, lock: int) -> None:
    plan = state.plan
    home = records.folder(plan.name)
    records.take_directory(state.directory)
    with ThreadPoolExecutor(max_workers=8) as pool:
        network = pool.submit(links.build, plan, lock)
        key = machine.make_key(home / "id_ed25519", f"godwit-lab-{plan.name}")
        prepared = pool.map(lambda name: machine.prepare(plan, name, _folders(state, name), key), plan.machine_names)
        host_keys = dict(zip(plan.machine_names, prepared, strict=True))
        (home / "known_hosts").write_text(
            "".join(f"{plan.management_address(name)},{name} {host_key}\n" for name, host_key in host_keys.items())
        )
        network.result()
        started = pool.map(
            lambda name: machine.start(plan, name, _folders(state, name), state.host_tree, lock), plan.machine_names
        )
        inits = dict(zip(plan.machine_names, started, strict=True))
    records.change(state, phase="up", inits=inits)


def _tear_down(state: LabState) -> None:
    """Remove everything that may exist of a laboratory; its lock must be held."""
    removing = records.change(state, phase="removing")
    _kill_all(removing)
    links.remove_controller_interface(removing.plan)
    remove_namespaces(namespaces_of_number(removing.plan.network_number))
    records.forget(removing)


def _kill_all(state: LabState) -> None:
    inits = state.inits.values() if state.boot == boot_id() else ()
    kill(inits)
    kill_residents(identify_namespaces(namespaces_of_number(state.plan.network_number), inits))


def _folders(state: LabState, name: str) -> machine.MachineFolders:
    own = state.directory / state.plan.check_machine(name)
    return machine.MachineFolders(
        home=records.folder(state.plan.name) / name,
        data=own / "varlib",
        images=state.directory / "shared" if state.plan.shared_storage else own / "images",
    )


def _describe(state: LabState, name: str) -> LabMachine:
    home = records.folder(state.plan.name)
    folders = _folders(state, name)
    return LabMachine(
        name=name,
        ssh_address=state.plan.management_address(name),
        ssh_port=machine.SSH_PORT,
        ssh_user="root",
        key_file=home / "id_ed25519",
        known_hosts=home / "known_hosts",
        migration_address=None if name == CLIENT else state.plan.migration_address(name),
        namespace=state.plan.namespace(name),
        images=folders.images,
        log=folders.log,
    )


def _machine_status(state: LabState, name: str, cut: frozenset[str]) -> MachineStatus:
    up = _alive(state, name)
    qemus = []
    for process in residents(identify_namespaces([state.plan.namespace(name)], [])):
        seen = executable_and_arguments(process)
        if seen is not None and seen[0].startswith("qemu-system-"):
            qemus.append(RunningQemu(process.pid, seen[1]))
    return MachineStatus(
        name=name,
        up=up,
        pid=state.inits[name].pid if up else None,
        address=state.plan.management_address(name),
        migration_address=None if name == CLIENT else state.plan.migration_address(name),
        cut=cut,
        qemus=tuple(sorted(qemus, key=lambda qemu: qemu.pid)),
    )


def _alive(state: LabState, name: str) -> bool:
    init = state.inits.get(state.plan.check_machine(name))
    return init is not None and init.alive() and state.boot == boot_id()


def _running_init(state: LabState, name: str) -> ProcessId:
    if not _alive(state, name):
        message = f"{name} of laboratory {state.plan.name} has crashed"
        raise LabError(message, remedy=f"godwit lab restart {state.plan.name} {name}")
    return state.inits[name]


def _check_tree(host_tree: Path | None) -> Path | None:
    if host_tree is None:
        return None
    tree = host_tree.resolve()
    if not (tree / "usr").is_dir():
        message = f"{tree} has no folder usr to lay over the hosts' /usr"
        raise LabError(message)
    if set(str(tree)) & set(":,\\"):
        message = f"{tree} cannot be an overlay's layer: mount takes ':', ',' and '\\' as separators"
        raise LabError(message, remedy="move it to a path without these characters")
    return tree
