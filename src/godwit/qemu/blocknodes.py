"""Block nodes that were added to a running QEMU, written as -blockdev options.

QMP tells a node's driver, file, cache mode and place in the graph. It does not tell `discard`, `aio` and `locking`:
these keep their defaults, which a guest cannot notice. Of disks that Godwit has attached, which it knows by the names
of both nodes, it knows `discard`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.errors import MonitorCommandError
from godwit.qemu.media import LONGEST_CHAIN
from godwit.qemu.options import Option
from godwit.qemu.reply import as_object, as_objects, flag, inner, inner_objects, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.qemu.qom import Asks

_FORMATS: Final = frozenset({"raw", "qcow2"})
_PROTOCOLS: Final = frozenset({"file", "host_device"})


class UnknownNodeError(ValueError):
    """A block node cannot be written as options exactly; the message says why."""


@dataclass(frozen=True, slots=True)
class BlockGraph:
    """The block nodes of a running QEMU by name, and for each the names of its children by role ("file", "backing")."""

    nodes: Mapping[str, Mapping[str, object]]
    edges: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


async def read_graph(monitor: Asks) -> BlockGraph:
    """Ask for all block nodes and how they hang together."""
    rows = as_objects(await monitor.execute("query-named-block-nodes", {"flat": True}), "query-named-block-nodes")
    nodes = {text(row, "node-name"): row for row in rows}
    try:
        reply = as_object(await monitor.execute("x-debug-query-block-graph"), "x-debug-query-block-graph")
    except MonitorCommandError:  # a debugging command: QEMU may drop it
        return BlockGraph(nodes)
    names = {whole(node, "id"): text(node, "name") for node in inner_objects(reply, "nodes")}
    edges: dict[str, dict[str, str]] = {}
    for edge in inner_objects(reply, "edges"):
        parent, child = names.get(whole(edge, "parent")), names.get(whole(edge, "child"))
        if parent is not None and child is not None:
            edges.setdefault(parent, {})[text(edge, "name")] = child
    return BlockGraph(nodes, edges)


def blockdev_options(graph: BlockGraph, name: str, known: set[str]) -> list[Option]:
    """Return the -blockdev options that make the node `name` and all below it that is not in `known`.

    What was made is added to `known`. Raises UnknownNodeError.
    """
    if name in known:
        return []
    _check_depth(graph, name)
    made: list[Option] = []
    document = _describe(graph, name, known, made)
    made.append(Option("blockdev", json.dumps({"node-name": name, **document}, separators=(",", ":"))))
    known.add(name)
    return made


def _check_depth(graph: BlockGraph, name: str) -> None:
    """Raise UnknownNodeError where what lies below a node has no end."""
    level = {name}
    for _ in range(LONGEST_CHAIN):
        level = {child for one in level for child in graph.edges.get(one, {}).values()}
        if not level:
            return
    message = f"below the block node {name} there are more than {LONGEST_CHAIN} others, or a loop"
    raise UnknownNodeError(message)


def _describe(graph: BlockGraph, name: str, known: set[str], made: list[Option]) -> dict[str, object]:
    node = graph.nodes.get(name)
    if node is None:
        message = f"there is no block node {name}"
        raise UnknownNodeError(message)
    driver = text(node, "drv")
    cache = inner(node, "cache")
    document: dict[str, object] = {
        "driver": driver,
        "read-only": flag(node, "ro"),
        "cache": {"direct": flag(cache, "direct"), "no-flush": flag(cache, "no-flush")},
    }
    if _is_own(graph, name):
        document["discard"] = "unmap"
    if text(node, "detect_zeroes", "off") != "off":
        document["detect-zeroes"] = text(node, "detect_zeroes")
    filename = text(node, "file")
    if filename.startswith("json:"):
        message = f"the block node {name} has options that QEMU tells only in part: {filename}"
        raise UnknownNodeError(message)
    if flag(node, "encrypted"):
        message = f"the block node {name} is encrypted: its secret cannot be read back"
        raise UnknownNodeError(message)
    if driver in _PROTOCOLS:
        if not filename.startswith("/"):
            message = f"the block node {name} has the relative path {filename}"
            raise UnknownNodeError(message)
        return {**document, "filename": filename}
    if driver in _FORMATS:
        return {**document, **_children(graph, name, known, made)}
    message = f"the block node {name} has the driver {driver}, which Godwit cannot write down exactly"
    raise UnknownNodeError(message)


def _is_own(graph: BlockGraph, name: str) -> bool:
    """Say whether Godwit has made a node: see `godwit.qemu.plugging`."""
    stem, _, part = name.rpartition("-")
    return part in {"format", "file"} and graph.edges.get(f"{stem}-format", {}).get("file") == f"{stem}-file"


def _children(graph: BlockGraph, name: str, known: set[str], made: list[Option]) -> dict[str, object]:
    edges = graph.edges.get(name)
    if edges is None or "file" not in edges or not edges.keys() <= {"file", "backing"}:
        message = f"QEMU does not tell what lies below the block node {name}"
        raise UnknownNodeError(message)
    below: dict[str, object] = {}
    for role, child in edges.items():
        if not child.startswith("#"):
            made.extend(blockdev_options(graph, child, known))
            below[role] = child
        elif role == "file":
            below[role] = _describe(graph, child, known, made)
        elif not _opened_by_header(graph, name, child):
            message = f"the block node {name} has another backing file than its header says"
            raise UnknownNodeError(message)
    if "backing" not in edges and "backing-filename" in inner(graph.nodes[name], "image"):
        below["backing"] = None
    return below


def _opened_by_header(graph: BlockGraph, name: str, child: str) -> bool:
    image = inner(graph.nodes[name], "image")
    return child in graph.nodes and text(image, "full-backing-filename") == text(graph.nodes[child], "file")
