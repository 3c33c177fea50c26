"""Every example can be meant: commands exist with these options, values can be read, calls fit the library."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import os
import re
import runpy
from typing import TYPE_CHECKING, Any

import pytest
import typer
from pages import ROOT, Block, blocks, blocks_of, code_spans, name_of, pages

import godwit
from godwit import units
from godwit.bench.commands import bench_app
from godwit.cli.main import app
from godwit.cli.moves import probe_of
from godwit.cli.policies import Typed, policy_of
from godwit.hooks import FileHooks
from godwit.lab.commands import lab_app
from godwit.model import Permission
from godwit.qemu.define import GuestDefinition, load_definition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOREIGN = {"install", "ssh", "chrt", "nice", "virsh", "qemu-img"}
READERS = {
    "max_downtime": units.parse_duration,
    "deadline": units.parse_duration,
    "off_timeout": units.parse_duration,
    "length": units.parse_duration,
    "interval": units.parse_duration,
    "bandwidth_": units.parse_bandwidth,
    "rate": units.parse_bandwidth,
    "probe": probe_of,
}
CONSOLE = blocks("console")
PYTHON = blocks("python")


@functools.cache
def groups() -> dict[str, Any]:
    """Return the command line, and those that it passes on to."""
    return {name: typer.main.get_command(one) for name, one in (("", app), ("lab", lab_app), ("bench", bench_app))}


def parsed(words: list[str]) -> None:
    """Parse a command line as the program does, without doing anything; raises what the parser raises."""
    command, path = groups()[""], "godwit"
    rest = words
    while True:
        context = command.make_context(path, list(rest))
        if not hasattr(command, "resolve_command"):
            for name, value in context.params.items():
                if name in READERS and isinstance(value, str):
                    READERS[name](value)
            return
        remaining = [*getattr(context, "_protected_args", []), *context.args]
        if not remaining and getattr(command, "invoke_without_command", False):
            return
        name, command, rest = command.resolve_command(context, remaining)
        if path == "godwit" and name in groups():
            command = groups()[name]
        path = f"{path} {name}"


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_commands_can_be_typed(block: Block) -> None:
    assert block.commands, "no line of this block begins with $"
    for words in block.commands:
        if words[0] == "godwit":
            parsed(words[1:])
        elif words[0].startswith("script/"):
            assert os.access(ROOT / words[0], os.X_OK), words
        else:
            assert words[0] in FOREIGN, words


def test_a_wrong_option_would_be_seen() -> None:
    for words in (
        ["migrate", "web1", "host2", "--fast"],
        ["vm", "moo"],
        ["lab", "up", "--hosts", "none"],
        ["bench", "--long"],
    ):
        with pytest.raises(Exception, match=r"(?i)no such|valid integer"):
            parsed(words)
    with pytest.raises(ValueError, match="no duration"):
        parsed(["migrate", "web1", "host2", "--max-downtime", "50"])


def options(command: Any) -> Iterator[str]:  # noqa: ANN401 - typer's own command classes are private
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for one in getattr(command, "commands", {}).values():
        yield from options(one)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_options_in_the_prose_exist(page: Path) -> None:
    known = {"--help", "--simulated"} | {option for command in groups().values() for option in options(command)}
    ours = [span for span in code_spans(page) if span.split()[0] not in FOREIGN]
    said = {word for span in ours for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}
    assert sorted(said - known) == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_commands_in_the_prose_exist(page: Path) -> None:
    for span in code_spans(page):
        words = span.split()
        if words[0] != "godwit" or len(words) == 1:
            continue
        command: Any = groups()[""]
        for word in words[1:]:
            if not hasattr(command, "commands") or not word.islower() or word.startswith("-"):
                break
            assert word in command.commands, span
            command = groups().get(word, command.commands[word])


def test_the_definition_in_the_docs_is_one() -> None:
    (block,) = (block for block in blocks("toml") if "goal" not in block.text and "name = " in block.text)
    definition = load_definition(block.text, str(block))
    assert definition.name == "web1"
    assert definition.disks[0].path == "/mnt/images/web1.qcow2"


def test_the_parts_of_definitions_in_the_docs_are_some() -> None:
    parts = [block for block in blocks("toml") if "goal" not in block.text and "name = " not in block.text]
    read = [load_definition(f'name = "web1"\nmemory = "1G"\n{block.text}', str(block)).nics for block in parts]
    shown = [[(nic.model, nic.when_moved, nic.macvtap, nic.mode) for nic in nics] for nics in read]
    assert sorted(shown, key=str) == [
        [("virtio", "travel", "eth0", "bridge")],
        [("virtio", "travel", None, None), ("vmxnet3", "unplug", None, None)],
    ]


def test_the_policy_in_the_docs_is_one(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("toml") if "goal" in block.text)
    path = tmp_path / "own.toml"
    path.write_text(block.text)
    policy = policy_of(Typed(str(path)))
    assert (policy.max_downtime, policy.deadline, policy.max_guest_slowdown) == (0.1, 600, 0.5)
    assert policy.allows == {Permission.THROTTLE, Permission.PAUSE, Permission.BALLOON}


def test_every_key_of_a_definition_is_explained() -> None:
    page = (ROOT / "docs" / "move-a-guest.md").read_text(encoding="utf-8")
    table = page[page.index("| Key |") : page.index("A NIC can lie on an interface")]
    explained = {key for row in table.splitlines() for key in re.findall(r"`([a-z_]+)`", row[: row.find("|", 1)])}
    assert explained == set(GuestDefinition.model_fields)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_examples_can_be_loaded(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def note(main: Any) -> None:  # noqa: ANN401 - whatever the example gives to asyncio.run
        ran.append(main.__name__)
        main.close()

    monkeypatch.setattr(asyncio, "run", note)
    script = tmp_path / "example.py"
    script.write_text(block.text)
    names = runpy.run_path(str(script))
    assert ran == (["main"] if "asyncio.run(" in block.text else [])
    assert [value for value in names.values() if inspect.iscoroutinefunction(value)]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_examples_call_the_library_as_it_is(block: Block) -> None:
    kinds = {"g": godwit.Godwit, "migration": type(godwit.Godwit(service=None).migration("id"))}  # type: ignore[arg-type]
    calls = 0
    for node in ast.walk(ast.parse(block.text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id in kinds:
            method = getattr(kinds[node.func.value.id], node.func.attr)
            inspect.signature(method).bind(None, *node.args, **{str(one.arg): None for one in node.keywords})
            calls += 1
    assert calls


def test_the_table_of_methods_is_that_of_the_library() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    table = page[page.index("| Method of `Godwit` |") : page.index("A `Migration` has")]
    said = dict(re.findall(r"`([a-z_]+)\(([^)]*)\)`", table))
    public = {
        name: value for name, value in vars(godwit.Godwit).items() if inspect.isfunction(value) and name[0] != "_"
    }
    assert set(said) == set(public)
    for name, arguments in said.items():
        parameters = inspect.signature(public[name]).parameters
        assert {one.strip().rstrip("=") for one in arguments.split(",") if one.strip()} <= {*parameters, "id"}, name


def test_blocks_are_of_known_kinds() -> None:
    kinds = {block.language for page in pages() for block in blocks_of(page)}
    assert kinds <= {"console", "text", "python", "toml", "mermaid", "sh"}


def test_the_main_pages_are_typed_in_a_laboratory() -> None:
    typed = {block.page for block in CONSOLE if "lab" in block.info}
    assert typed >= {"README.md", "docs/laboratory.md"}


@pytest.mark.parametrize(("found", "status"), [("4711", 1), ("", 0)])
async def test_the_example_of_a_hook_keeps_a_guest_where_it_is_or_lets_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, status: int
) -> None:
    """As it stands on the page, with an `ssh` in its way that finds a backup on the host, or none."""
    (block,) = blocks("sh")
    hooks = FileHooks(tmp_path)
    hooks.folder.mkdir(mode=0o700)
    (hooks.folder / "before-move").write_text(block.text)
    (hooks.folder / "before-move").chmod(0o700)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\n[ "$*" = "host1 pgrep -x backup" ] && [ -n "{found}" ]\n')
    (programs / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    run = await hooks.run("before-move", {"GODWIT_SOURCE": "host1"}, 30)

    assert run is not None
    assert run.status == status
    assert run.said == ("a backup runs on host1" if found else "")
