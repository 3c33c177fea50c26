"""The laboratory's assets: derived package sources, what is hidden from apt, the key, completeness."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from godwit.errors import LabError
from godwit.lab import assets, guestimage, packages
from godwit.lab.assets import Tree
from godwit.lab.packages import Source, debian_sources, parse_deb822, parse_one_line

DEB822 = """\
Types: deb deb-src
# a comment in the middle
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.invalid/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://mirror.invalid/debian
Suites: bookworm-proposed-updates
Components: main

Types: deb
URIs: https://vendor.invalid/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/NZJPR8lsD3K87ZM18gzyQZJD+w
 -----END PGP PUBLIC KEY BLOCK-----
"""

ONE_LINE = """\
# deb http://old.invalid/debian bookworm main
deb [arch=amd64 signed-by=/keyrings/debian-archive-keyring.gpg] http://mirror.invalid/debian bookworm main non-free # x
deb http://security.invalid/debian-security bookworm-security main
deb-src http://mirror.invalid/debian bookworm main
deb https://vendor.invalid/linux/debian bookworm stable
deb [trusted=yes] file:/srv/debian trixie main
"""


def test_deb822_sources_are_read_with_their_keys() -> None:
    sources = parse_deb822(DEB822)
    assert [source.suites for source in sources] == [
        ("bookworm", "bookworm-updates"),
        ("bookworm-security",),
        ("bookworm",),
    ]
    assert sources[0].uris == ("http://mirror.invalid/debian",)
    assert sources[0].components == ("main", "contrib")
    assert sources[0].option("Signed-By") == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert "mQINBGPL0BUBEAD" in sources[2].option("Signed-By")


def test_one_line_sources_are_read_with_their_options() -> None:
    sources = parse_one_line(ONE_LINE)
    assert [(source.uris[0], source.suites[0], source.components) for source in sources] == [
        ("http://mirror.invalid/debian", "bookworm", ("main", "non-free")),
        ("http://security.invalid/debian-security", "bookworm-security", ("main",)),
        ("https://vendor.invalid/linux/debian", "bookworm", ("stable",)),
        ("file:/srv/debian", "trixie", ("main",)),
    ]
    assert sources[0].options == (("Signed-By", "/keyrings/debian-archive-keyring.gpg"),)
    assert sources[3].option("Trusted") == "yes"


@pytest.mark.parametrize("entries", [parse_deb822(DEB822)[:3], parse_one_line(ONE_LINE)], ids=["deb822", "one-line"])
def test_debian_sources_leave_strangers_out_and_add_backports(entries: list[Source]) -> None:
    chosen = debian_sources(entries, "bookworm")
    suites = {suite: source.uris[0] for source in chosen for suite in source.suites}
    assert suites["bookworm"] == suites["bookworm-backports"] == "http://mirror.invalid/debian"
    assert suites["bookworm-security"] == "http://security.invalid/debian-security"
    assert {source.components for source in chosen} == {("main",)}
    backports = next(source for source in chosen if source.suites == ("bookworm-backports",))
    assert backports.option("Signed-By").endswith("keyrings/debian-archive-keyring.gpg")


def test_a_mirror_list_file_counts_as_debian() -> None:
    entry = Source(("mirror+file:///etc/apt/mirrors/debian.list",), ("bookworm", "bookworm-backports"), ("main",))
    chosen = debian_sources([entry], "bookworm")
    assert [source.suites for source in chosen] == [("bookworm",), ("bookworm-backports",)]


def test_an_entry_with_a_key_of_its_own_counts_only_where_there_is_no_other() -> None:
    own_key = parse_deb822(DEB822)[2]
    assert "https://vendor.invalid/debian" not in {
        uri for source in debian_sources(parse_deb822(DEB822), "bookworm") for uri in source.uris
    }
    assert debian_sources([own_key], "bookworm")[-1].uris == ("https://vendor.invalid/debian",)


def test_no_debian_archive_is_said_with_a_remedy() -> None:
    with pytest.raises(LabError, match="no entry of the Debian archive for trixie") as raised:
        debian_sources(parse_deb822(DEB822), "trixie")
    assert "trixie" in raised.value.remedy


def test_a_stanza_is_read_back_as_the_same_source() -> None:
    for source in parse_deb822(DEB822):
        assert parse_deb822(source.stanza()) == [source]


def test_sources_of_both_formats_are_collected_from_apts_folder(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/saved.list.save").write_text("deb http://saved.invalid/debian bookworm main\n")
    assert packages.machine_sources(tmp_path) == [*parse_one_line(ONE_LINE), *parse_deb822(DEB822)]


STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9
Depends: libgcc-s1
Description: GNU C Library
 more of it

Package: qemu-utils
Status: install ok installed
Architecture: amd64
Version: 1:7.2

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: libssl3t64
Status: install ok installed
Architecture: amd64
Version: 3.5
Provides: libssl3 (= 3.5)
Conflicts: everything
"""


def test_the_status_for_apt_hides_packages_and_relations() -> None:
    text = packages.status_without(STATUS, ["qemu-utils"])
    read = packages.stanzas(text)
    assert [fields["Package"] for fields in read] == ["libc6", "libssl3t64"]
    assert read[1]["Provides"] == "libssl3 (= 3.5)"
    assert all("Depends" not in fields and "Conflicts" not in fields for fields in read)


def test_installed_packages_are_those_in_place(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(STATUS)
    assert packages.installed(status) == {"libc6": "2.36-9", "qemu-utils": "1:7.2", "libssl3t64": "3.5"}


def test_another_distribution_is_refused_by_name(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=fedora\nPRETTY_NAME="Fedora Linux 42"\nVERSION_CODENAME=""\n')
    with pytest.raises(LabError, match="Fedora Linux 42"):
        packages.codename(release)


def test_the_key_depends_on_the_release_and_on_what_the_guest_is_made_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = assets.content_key("bookworm")
    assert key == assets.content_key("bookworm")
    assert key.startswith("bookworm-")
    assert key.split("-")[1] != assets.content_key("trixie").split("-")[1]
    changed = tmp_path / "guest"
    changed.mkdir()
    for source in guestimage.GUEST_SOURCES.iterdir():
        if source.is_file():
            (changed / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(guestimage, "GUEST_SOURCES", changed)
    assert assets.content_key("bookworm") == key
    with (changed / "rc").open("a") as rc:
        rc.write("# a change\n")
    assert assets.content_key("bookworm") != key


def _complete(folder: Path, machine: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"qemu": "1:10.0", "machine": machine, "packages": {}}))


def test_a_complete_folder_is_taken_as_it_is_and_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "codename", lambda: "bookworm")
    monkeypatch.setattr(assets, "installed", lambda: {"libc6": "2.36-9"})
    folder = tmp_path / assets.content_key("bookworm")
    _complete(folder, {"libc6": "2.36-9"})
    said: list[str] = []
    ready = assets.prepare(tmp_path, said.append)
    assert said == []
    assert ready.qemu_version == "1:10.0"
    assert ready.hosttree == folder / "hosttree"
    assert ready.trees == {}


def test_the_tree_with_libvirt_is_made_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "codename", lambda: "bookworm")
    monkeypatch.setattr(assets, "installed", lambda: {"libc6": "2.36-9"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    folder = tmp_path / assets.content_key("bookworm")
    _complete(folder, {"libc6": "2.36-9"})
    with pytest.raises(LabError, match="needs root"):
        assets.prepare(tmp_path, lambda _: None, Tree.LIBVIRT)
    _complete(folder / "libvirt", {"libc6": "2.36-9"})
    ready = assets.prepare(tmp_path, lambda _: None, Tree.LIBVIRT)
    assert ready.hosttree == folder / "hosttree"
    assert ready.trees[Tree.LIBVIRT] == folder / "libvirt/hosttree"


@pytest.mark.parametrize("here", [{}, {"libc6": "2.31-1"}], ids=["removed", "older"])
def test_a_tree_that_no_longer_fits_the_machine_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: dict[str, str]
) -> None:
    monkeypatch.setattr(assets, "codename", lambda: "bookworm")
    monkeypatch.setattr(assets, "installed", lambda: here)
    monkeypatch.setattr(assets, "newer", lambda one, other: one > other)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    _complete(tmp_path / assets.content_key("bookworm"), {"libc6": "2.36-9"})
    with pytest.raises(LabError, match="needs root"):
        assets.prepare(tmp_path, lambda _: None)


def test_a_build_that_fails_leaves_nothing_that_looks_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_done(_archive: object, fresh: Path, _report: object) -> None:
        (fresh / "hosttree").mkdir()
        message = "the archive does not answer"
        raise LabError(message)

    monkeypatch.setattr(assets, "codename", lambda: "bookworm")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(assets, "open_archive", lambda _folder, _release: None)
    monkeypatch.setattr(assets, "_new_tree", half_done)
    left = tmp_path / "building-1"  # by a build that was killed
    left.mkdir()
    with pytest.raises(LabError, match="does not answer"):
        assets.prepare(tmp_path, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_only_old_assets_that_nobody_has_mounted_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building = tmp_path / "building-1"
    building.mkdir()
    for name in ("current", "recent", "old", "used"):
        _complete(tmp_path / name, {})
        if name != "recent":
            os.utime(tmp_path / name / "manifest.json", (0, 0))
    monkeypatch.setattr(assets, "_mounted", lambda folder: folder.name == "used")
    assets._prune(tmp_path, tmp_path / "current", building)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["building-1", "current", "recent", "used"]


@pytest.mark.lab
def test_an_overlay_in_another_namespace_counts_as_mounted(tmp_path: Path) -> None:
    tree = tmp_path / "hosttree"
    (tree / "usr").mkdir(parents=True)
    assert not assets._mounted(tmp_path)
    script = 'mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr && echo mounted && read -r _'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(tree)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n"
        assert assets._mounted(tmp_path)
        holder.communicate(b"\n")


def test_a_user_for_sshd_is_added_only_where_there_is_none() -> None:
    users = "root:x:0:0:root:/root:/bin/bash\n"
    with_user = assets.with_sshd_user(users)
    assert with_user.startswith(users)
    assert with_user.count("\nsshd:") == 1
    assert assets.with_sshd_user(with_user) == with_user


@pytest.mark.lab
def test_the_host_tree_serves_over_the_machines_usr(tmp_path: Path) -> None:
    ready = assets.prepare(assets.cache_folder(), print)
    key = tmp_path / "key"
    passwd = tmp_path / "passwd"
    passwd.write_text(assets.with_sshd_user(Path("/etc/passwd").read_text()))
    packages.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    script = (
        'mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr && mount -t tmpfs t /run && mkdir /run/sshd'
        ' && mount --bind "$3" /etc/passwd'
        ' && qemu-system-x86_64 --version && qemu-img --version && /usr/sbin/sshd -t -f /dev/null -h "$2"'
        " && test -x /usr/lib/openssh/sftp-server && ip -V && nft --version && ping -V"
    )
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    said = packages.run([*inside, str(ready.hosttree), str(key), str(passwd)])
    upstream = ready.qemu_version.partition(":")[2].split("+", 1)[0]
    assert f"QEMU emulator version {upstream}" in said
    assert f"qemu-img version {upstream}" in said
