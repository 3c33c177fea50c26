"""The pages hold together: links lead somewhere, generated parts are current, tables are complete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import diagrams
import pytest
from pages import ROOT, anchors, links, name_of, pages, prose_of

from godwit import errors
from godwit.core import machine
from godwit.core.preflight.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = pytest.mark.parametrize("page", pages(), ids=name_of)
SOURCE = ROOT / "src" / "godwit"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
FORBIDDEN_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("deb", "debian", "org"),
        ("registry", "npmjs", "org"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
    )
]
FORBIDDEN_FOLDERS = [f"/{name}/" for name in ("home", "root", "tmp", "work", "opt")]
SEED_SECTIONS = (
    *("动态迁移的概念", "迁移的基本概念", "无虚拟化的迁移", "虚拟化环境的迁移", "静态迁移", "动态迁移"),
    *("动态迁移的效率和应用场景", "效率的衡量", "应用场景", "KVM 动态迁移原理", "静态迁移操作"),
    *("基于共享存储的动态迁移过程", "迁移前后客户机状态不一致问题", "服务停机时间影响因素", "KVM 动态迁移的"),
    *("KVM 动态迁移实践", "基于共享存储的动态迁移", "源宿主机启动客户机", "目的宿主机启动新客户机", "monitor 中迁移"),
    *("新虚拟机确认", "磁盘复制的动态迁移", "增量磁盘动态迁移", "源宿主机创建增量镜像文件并启动虚拟机"),
    *("目的宿主机创建增量镜像文件并启动虚拟机", "monitor 中迁移虚拟机", "完整磁盘动态迁移"),
    *("monitor 中动态迁移相关命令", "VT-d/SR-IOV 的动态迁移"),
)


@PAGES
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            broken.append(target)
    assert not broken


@PAGES
def test_no_page_names_a_registry_or_a_folder_of_somebodys_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [word for word in (*FORBIDDEN_HOSTS, *FORBIDDEN_FOLDERS, str(ROOT)) if word in text] == []


@PAGES
def test_lines_are_short_enough_to_read(page: Path) -> None:
    prose = [line for line in prose_of(page).splitlines() if not line.startswith("|")]
    assert [line for line in prose if len(line) > 120] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    waiting, seen = [ROOT / "README.md"], {ROOT / "README.md"}
    while waiting:
        page = waiting.pop()
        for target in links(page):
            other = (page.parent / target.partition("#")[0]).resolve()
            if other.suffix == ".md" and other.exists() and other not in seen:
                seen.add(other)
                waiting.append(other)
    assert sorted(map(name_of, set(pages()) - seen)) == []


@pytest.mark.exhaustive  # it walks the whole machine, some 10 s of work
@pytest.mark.timeout(600)
def test_the_architecture_is_as_the_code_makes_it() -> None:
    text = diagrams.ARCHITECTURE.read_text(encoding="utf-8")
    assert diagrams.rendered(diagrams.ARCHITECTURE, text) == text, "run script/diagrams"


def test_the_table_of_checks_is_as_the_code_makes_it() -> None:
    text = diagrams.CHECKS.read_text(encoding="utf-8")
    assert diagrams.rendered(diagrams.CHECKS, text) == text, "run script/diagrams"


def test_the_diagram_tries_every_event_that_the_machine_knows() -> None:
    assert {type(event) for event in diagrams.EVENTS} >= {kind for _, kind in machine.TRANSITIONS}


def test_every_room_is_in_the_architecture() -> None:
    text = diagrams.ARCHITECTURE.read_text(encoding="utf-8")
    private = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    rooms = [f"{one.name}/" if one.is_dir() else one.name for one in SOURCE.iterdir() if one.name not in private]
    assert [room for room in sorted(rooms) if f"| `{room}` |" not in text] == []


def error_classes(kind: type[errors.GodwitError] = errors.GodwitError) -> Iterator[type[errors.GodwitError]]:
    yield kind
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from error_classes(one)


def test_troubleshooting_has_every_error_with_its_exit_status() -> None:
    text = TROUBLESHOOTING.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", text, re.MULTILINE))
    assert rows == {(kind.code, str(kind.exit_status)) for kind in error_classes()}


def test_troubleshooting_has_every_finding() -> None:
    text = TROUBLESHOOTING.read_text(encoding="utf-8")
    assert [code for code in ROWS if f"`{code}`" not in text] == []


def test_the_seed_has_a_part_for_each_section() -> None:
    text = (ROOT / "docs" / "seed.md").read_text(encoding="utf-8")
    missing = [section for section in SEED_SECTIONS if not re.search(rf"\({re.escape(section)}\)", text)]
    assert missing == []
