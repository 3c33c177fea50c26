"""What a running guest is, and how to start it elsewhere: its QEMU's answers put beside its command line."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import MonitorCommandError
from godwit.model import GuestFacts, Launch, NicFacts, Tap
from godwit.qemu import hotplug, media, qom
from godwit.qemu.commandline import Running, parse, resolver_of, target_launch, went_to_root
from godwit.qemu.needs import guest_needs
from godwit.qemu.options import CommandLineError
from godwit.qemu.ownership import inherited_descriptors, owned_by_libvirt
from godwit.qemu.paths import split
from godwit.qemu.quirks import MEMORY_KILLS, quirks_of
from godwit.qemu.reply import as_object, as_objects, as_text, flag, inner, number, text, texts
from godwit.qemu.unplugging import direct_devices
from godwit.qemu.views import make_view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from godwit.qemu.options import Option
    from godwit.qemu.process import ProcessFacts
    from godwit.qemu.qom import Asks, NetworkClient

_CPU_TYPE: Final = "-x86_64-cpu"


async def guest_facts(name: str, monitor: Asks, process: ProcessFacts) -> GuestFacts:
    """Describe the guest `name` behind `monitor`, whose process is `process`.

    The bridges of its taps are empty: QEMU does not know them. What keeps it from being started elsewhere exactly as
    it is stands in `refusals`, `inherited_descriptors` and `libvirt`. Raises what Monitor.execute raises.
    """
    status, migration, kvm, memory, cpus, machine, block = await asyncio.gather(
        monitor.execute("query-status"),
        monitor.execute("query-migrate"),
        monitor.execute("query-kvm"),
        monitor.execute("query-memory-size-summary"),
        monitor.execute("query-cpus-fast"),
        monitor.execute("qom-get", {"path": "/machine", "property": "type"}),
        monitor.execute("query-block"),
    )
    stream = as_object(migration, "query-migrate")
    memory_sizes = as_object(memory, "query-memory-size-summary")
    processors = list(as_objects(cpus, "query-cpus-fast"))
    accelerator = "kvm" if flag(as_object(kvm, "query-kvm"), "enabled") else "tcg"
    canonical = as_text(machine, "the type of the machine").removesuffix("-machine")
    backends = await hotplug.read_backends(monitor)
    rows = tuple(as_objects(block, "query-block"))
    found, unreadable = _read(process)
    launch, refusals = await _launch(monitor, process, found, backends, rows, (canonical, accelerator))
    size = int(number(memory_sizes, "base-memory") + number(memory_sizes, "plugged-memory"))
    return GuestFacts(
        vm=name,
        run_state=make_view(as_object(status, "query-status"), stream).state,
        qemu_version=monitor.version,
        machine=canonical,
        accelerator=accelerator,
        cpu_model=await _cpu_model(monitor, found, processors),
        memory=size,
        vcpus=len(processors),
        disks=tuple(media.disks(rows, resolver_of(process, found))),
        nics=tuple(nics(backends.clients, process.macvtaps)),
        launch=launch,
        pid=process.pid,
        libvirt=owned_by_libvirt(found),
        inherited_descriptors=inherited_descriptors(found, process.macvtaps),
        blockers=texts(stream, "blocked-reasons"),
        refusals=(
            *unreadable,
            *refusals,
            *(await ask_tpm(monitor)),
            *_deadly(monitor.version, accelerator, number(memory_sizes, "plugged-memory")),
        ),
        stray_images=tuple(media.stray(rows, resolver_of(process, found))) if went_to_root(process, found) else (),
        needs=replace(
            guest_needs(launch, backends.clients, size), open_files=process.descriptors, runs_on=process.cpus
        ),
        direct=direct_devices(launch),
    )


async def ask_tpm(monitor: Asks) -> tuple[str, ...]:
    """Return a refusal for each TPM: its state is not QEMU's. A QEMU that was built without has no such command."""
    try:
        rows = as_objects(await monitor.execute("query-tpm"), "query-tpm")
    except MonitorCommandError:
        return ()
    return tuple(
        f"it has the TPM {text(row, 'id')} ({text(inner(row, 'options'), 'type')}): its state lies in the folder of a "
        "program of its own (swtpm), or in a chip, on this host, and nothing on the target would have it"
        for row in rows
    )


def _deadly(version: tuple[int, int, int], accelerator: str, plugged_memory: float) -> Iterator[str]:
    """Yield a refusal for a machine that QEMU itself cannot migrate without dying."""
    if plugged_memory:
        for quirk in quirks_of(version, accelerator):
            if quirk.code == MEMORY_KILLS:
                yield f"it has plugged-in memory: {quirk.effect} ({quirk.source})"


def _read(process: ProcessFacts) -> tuple[tuple[Option, ...], tuple[str, ...]]:
    try:
        found = parse(process.argv)
        for option in found:
            split(option)  # what cannot be taken apart is not read by halves
    except CommandLineError as error:
        return (), (f"its command line cannot be read: {error}",)
    return found, ()


async def _launch(
    monitor: Asks,
    process: ProcessFacts,
    found: tuple[Option, ...],
    backends: hotplug.Backends,
    rows: tuple[Mapping[str, object], ...],
    running: tuple[str, str],
) -> tuple[Launch, tuple[str, ...]]:
    """Return how to start the guest elsewhere, and why that would not be the same; `running`: machine, accelerator."""
    if not found:
        return Launch(argv=process.argv), ()
    difference = await hotplug.compare(monitor, found, process, backends)
    emptied, unclear = media.ejected(rows, found)
    put = {place: {**difference.put.get(place, {}), **values} for place, values in _taps_by_hand(found, backends)}
    put = difference.put | put
    put |= {place: {**put.get(place, {}), **values} for place, values in emptied.items()}
    launch, refusals = target_launch(
        process, Running(*running, put=put, removed=frozenset(difference.removed), added=tuple(difference.added))
    )
    changed = media.changed(rows, found, difference.added, resolver_of(process, found))
    return launch, (*refusals, *difference.refusals, *unclear, *changed)


def _taps_by_hand(found: tuple[Option, ...], backends: hotplug.Backends) -> Iterator[tuple[int, dict[str, str]]]:
    """Name the interface of each tap that the kernel named and no script plugged in: somebody did, so Godwit must."""
    for place, option in enumerate(found):
        if option.name not in {"net", "netdev", "nic"}:
            continue
        pairs = split(option)
        client = backends.clients.get(pairs.get("id") or "")
        if pairs.get("type") != "tap" or pairs.get("script") != "no" or pairs.get("ifname") or client is None:
            continue
        if "ifname" in client.info:
            yield place, {"ifname": client.info["ifname"]}


def nics(clients: Mapping[str, NetworkClient], macvtaps: Sequence[Tap] = ()) -> Iterator[NicFacts]:
    """Return the NICs among the network's clients, each with the tap that it is connected to."""
    opened = {str(tap.macvtap.descriptor): tap for tap in macvtaps if tap.macvtap is not None}
    for client in clients.values():
        if client.type != "nic":
            continue
        peers = [
            other
            for other in clients.values()
            if other.type == "tap" and (other.peer == client.name or (client.peer and other.peer == client.peer))
        ]
        about = peers[0].info if peers else {}
        tap = Tap(about["ifname"], "") if about.get("ifname") else opened.get(about.get("fd", ""))
        yield NicFacts(client.name, client.info.get("macaddr", ""), tap)


async def _cpu_model(monitor: Asks, found: tuple[Option, ...], processors: list[Mapping[str, object]]) -> str:
    """Return what -cpu says, else the model that the machine has by default."""
    given = [option.value for option in found if option.name == "cpu" and option.value]
    if given:
        return given[-1]
    kind = await qom.get(monitor, text(processors[0], "qom-path"), "type") if processors else None
    return str(kind or "").removesuffix(_CPU_TYPE)
