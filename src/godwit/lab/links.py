"""The laboratory's switches, cables and their rate.

```
 this machine        gwl<n>-sw (two bridges)              gwl<n>-host<i>
 gwl<n>c ------- p-controller  switch  p-host<i> -------- uplink0 in br0 (guests' taps join it)
                                       p-client  -------- eth0 of gwl<n>-client
                               migswitch  m-host<i> ----- mig0 (tbf on its egress)
```

Whole batches go to `ip` and `tc`, one process for each namespace: that is as fast as netlink from here, and a
failure names its own line in the words of the tool that everybody knows.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.lab import plan as names
from godwit.lab.namespaces import namespace_file, run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from godwit.lab.plan import LabPlan, Link

BURST: Final = "64kb"
QUEUE: Final = "1mb"
"""The shaper's queue, on the sender's own side as that of a network card is.

A card holds a sender back and drops nothing. A shaper that is full drops, and a small packet that is dropped on its own
host, with nothing else of its connection under way, is sent again only by the persist timer, 200 ms and more later
(tcp_check_probe_timer() in Linux). What waits here at the switchover adds to the blackout; the kernel keeps that to
about a millisecond of each connection's rate (TCP small queues), so a queue that holds several of these never drops.
"""

_CONTROLLER_PORT: Final = "p-controller"
_QUIET_BRIDGE: Final = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"


def build(plan: LabPlan, keep: int) -> None:
    """Make all namespaces of `plan`, join them and shape the migration link; `keep` is the lock to inherit.

    Raises LabError with the failing line and the mend where that is known.
    """
    switch = plan.switch_namespace
    port = _CONTROLLER_PORT
    interface = plan.controller_interface
    _ip(
        [
            *(f"netns add {name}" for name in plan.namespaces),
            f"link add {interface} mtu {names.LINK_MTU} type veth peer name {port} netns {switch}",
            f"link set {interface} addrgenmode none up",
            f"address add {plan.controller_address}/{names.PREFIX_LENGTH} broadcast + dev {interface}",
        ],
        keep=keep,
    )
    _quieten_netfilter(switch, keep)
    _ip(
        [
            "link set lo up",
            f"link add {names.SWITCH_BRIDGE} {_QUIET_BRIDGE}",
            f"link add {names.MIGRATION_BRIDGE} {_QUIET_BRIDGE}",
            f"link set {names.SWITCH_BRIDGE} addrgenmode none up",
            f"link set {names.MIGRATION_BRIDGE} addrgenmode none up",
            f"link set {port} addrgenmode none master {names.SWITCH_BRIDGE} up",
            *(line for machine in plan.machine_names for line in _port_lines(plan, machine)),
        ],
        namespace=switch,
        keep=keep,
    )
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda machine: _join(plan, machine, keep), plan.machine_names))


def rebuild_machine(plan: LabPlan, machine: str, keep: int) -> None:
    """Give `machine` a fresh network namespace with whole links, as after a reboot; the old ones must be removed."""
    _ip([f"netns add {plan.namespace(machine)}"], keep=keep)
    _ip(_port_lines(plan, machine), namespace=plan.switch_namespace, keep=keep)
    _join(plan, machine, keep)


def disconnect(plan: LabPlan, machine: str) -> None:
    """Pull `machine`'s cables out of the switches for good; both their ends vanish."""
    present = _ports(plan)
    _ip(
        [f"link delete {port}" for port, _ in _cables(machine, "all") if port in present],
        namespace=plan.switch_namespace,
    )


def cut(plan: LabPlan, machine: str, link: Link) -> None:
    """Cut a link silently: the ports leave their switch, so frames vanish, and no side loses its carrier."""
    _ip([f"link set {port} nomaster" for port, _ in _cables(machine, link)], namespace=plan.switch_namespace)


def heal(plan: LabPlan, machine: str, link: Link) -> None:
    """Undo `cut`."""
    _ip(
        [f"link set {port} master {bridge} up" for port, bridge in _cables(machine, link)],
        namespace=plan.switch_namespace,
    )


def cut_links(plan: LabPlan) -> dict[str, frozenset[str]]:
    """Return for each machine which of its links (`management`, `migration`) are cut now, as the kernel sees it."""
    ports = _ports(plan)
    return {
        machine: frozenset(
            kind
            for kind in ("management", "migration")
            for port, bridge in _cables(machine, kind)
            if ports.get(port) != bridge
        )
        for machine in plan.machine_names
    }


def shape(plan: LabPlan, hosts: Iterable[str], rate: int | None, keep: Iterable[int] = ()) -> None:
    """Hold the egress of the hosts' migration links to `rate` bits a second, None for unshaped; works live."""
    for host in hosts:
        tail = f"tbf rate {rate}bit burst {BURST} limit {QUEUE}" if rate is not None else "pfifo"
        argv = ["tc", "-netns", plan.namespace(host), "qdisc", "replace", "dev", names.HOST_MIGRATION, "root"]
        run([*argv, *tail.split()], keep=tuple(keep))


def remove_controller_interface(plan: LabPlan) -> None:
    """Remove the interface in this machine's own network namespace, if it is there."""
    if has_controller_interface(plan.network_number):
        _ip([f"link delete {plan.controller_interface}"])


def has_controller_interface(number: int) -> bool:
    """Tell whether a laboratory of this number has an interface in this machine's own network namespace."""
    return Path("/sys/class/net", names.controller_interface(number)).exists()


def _cables(machine: str, link: Link) -> list[tuple[str, str]]:
    """Return (port, bridge) of each cable that `link` means; the client has no migration link."""
    cables = []
    if link in {"management", "all"}:
        cables.append((names.switch_port(machine), names.SWITCH_BRIDGE))
    if link in {"migration", "all"} and machine != names.CLIENT:
        cables.append((names.migration_port(machine), names.MIGRATION_BRIDGE))
    return cables


def _port_lines(plan: LabPlan, machine: str) -> list[str]:
    """Return the lines that put both ends of a machine's cables in place, seen from the switch."""
    near = {
        names.switch_port(machine): names.CLIENT_INTERFACE if machine == names.CLIENT else names.HOST_UPLINK,
        names.migration_port(machine): names.HOST_MIGRATION,
    }
    space = plan.namespace(machine)
    return [
        line
        for port, bridge in _cables(machine, "all")
        for line in (
            f"link add {port} mtu {names.LINK_MTU} type veth peer name {near[port]} mtu {names.LINK_MTU} netns {space}",
            f"link set {port} addrgenmode none master {bridge} up",
        )
    ]


def _join(plan: LabPlan, machine: str, keep: int) -> None:
    """Configure a machine's own ends of its cables."""
    address = f"{plan.management_address(machine)}/{names.PREFIX_LENGTH} broadcast +"
    uplink = plan.hardware_address(machine, "uplink")
    lines = ["link set lo up"]
    if machine == names.CLIENT:
        lines += [
            f"link set {names.CLIENT_INTERFACE} address {uplink} addrgenmode none up",
            f"address add {address} dev {names.CLIENT_INTERFACE}",
        ]
    else:
        bridge = plan.hardware_address(machine, "bridge")
        migration = plan.hardware_address(machine, "migration")
        far = f"{plan.migration_address(machine)}/{names.PREFIX_LENGTH} broadcast +"
        lines += [
            f"link add {names.HOST_BRIDGE} address {bridge} {_QUIET_BRIDGE}",
            f"link set {names.HOST_BRIDGE} addrgenmode none up",
            f"link set {names.HOST_UPLINK} address {uplink} addrgenmode none master {names.HOST_BRIDGE} up",
            f"address add {address} dev {names.HOST_BRIDGE}",
            f"link set {names.HOST_MIGRATION} address {migration} addrgenmode none up",
            f"address add {far} dev {names.HOST_MIGRATION}",
        ]
    _ip(lines, namespace=plan.namespace(machine), keep=keep)
    if machine != names.CLIENT:
        shape(plan, [machine], plan.link_rate, keep=[keep])


def _ports(plan: LabPlan) -> dict[str, str | None]:
    """Return every port in the switch's namespace with the bridge that it is in, None for none."""
    if not namespace_file(plan.switch_namespace).exists():
        return {}
    rows = json.loads(run(["ip", "-netns", plan.switch_namespace, "-json", "link", "show"]))
    return {row["ifname"]: row.get("master") for row in rows}


def _quieten_netfilter(namespace: str, keep: int) -> None:
    """Let bridged frames bypass the packet filter where the kernel would send them through it."""
    knobs = [f"net.bridge.bridge-nf-call-{family}tables=0" for family in ("ip", "ip6", "arp")]
    if Path("/proc/sys/net/bridge").is_dir():
        run(["nsenter", f"--net={namespace_file(namespace)}", "sysctl", "-q", "-w", *knobs], keep=[keep])


def _ip(lines: list[str], *, namespace: str = "", keep: int | None = None) -> None:
    if lines:
        place = ["-netns", namespace] if namespace else []
        run(["ip", *place, "-batch", "-"], text="\n".join([*lines, ""]), keep=[] if keep is None else [keep])
