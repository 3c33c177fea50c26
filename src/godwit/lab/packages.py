"""Debian packages for the laboratory, fetched without touching the machine's own apt set-up.

apt itself does the work, with a state, a cache and sources of its own in a folder of ours. The sources are derived
from the machine's: the same archive, the same keyring, plus the release's backports. Nothing is installed; packages
are unpacked below a folder.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from godwit.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

APT_FOLDER = Path("/etc/apt")
DPKG_STATUS = Path("/var/lib/dpkg/status")
ARCHITECTURE = "amd64"

# How a source is to be trusted and checked; everything else in an entry (languages, diffs) is not needed here.
_KEPT_OPTIONS = {"signed-by": "Signed-By", "trusted": "Trusted", "check-valid-until": "Check-Valid-Until"}
_KEYRING = "debian-archive"
_DEBIAN_PATH = re.compile(r"(^|/)debian([.-][^/]*)?(/|$)")
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?:\s+(?P<components>.*))?$")
_FETCHED = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of apt's sources: where, which suites, and how it is trusted."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str:
        """Return the value of a deb822 field such as Signed-By, empty where the entry has none."""
        return dict(self.options).get(name, "")

    def stanza(self) -> str:
        """Write the entry in apt's deb822 format."""
        fields = [
            ("Types", "deb"),
            ("URIs", " ".join(self.uris)),
            ("Suites", " ".join(self.suites)),
            ("Components", " ".join(self.components)),
            ("Architectures", ARCHITECTURE),
            *self.options,
        ]
        return "".join(f"{name}: {value}\n" for name, value in fields) + "\n"


@dataclass(frozen=True, slots=True)
class Package:
    """One package that was fetched: its name, its version and its file."""

    name: str
    version: str
    file: Path


def parse_deb822(text: str) -> list[Source]:
    """Read the enabled `deb` entries of a `.sources` file."""
    sources = []
    for stanza in stanzas(text):
        fields = {name.lower(): value for name, value in stanza.items()}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        sources.append(
            Source(
                uris=tuple(fields.get("uris", "").split()),
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                options=tuple((kept, fields[name]) for name, kept in _KEPT_OPTIONS.items() if name in fields),
            )
        )
    return sources


def parse_one_line(text: str) -> list[Source]:
    """Read the `deb` lines of a `.list` file."""
    sources = []
    for line in text.splitlines():
        found = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if found is None:
            continue
        options = {}
        for option in (found["options"] or "").split():
            name, _, value = option.partition("=")
            options[name.lower()] = value
        sources.append(
            Source(
                uris=(found["uri"],),
                suites=(found["suite"],),
                components=tuple((found["components"] or "").split()),
                options=tuple((kept, options[name]) for name, kept in _KEPT_OPTIONS.items() if options.get(name)),
            )
        )
    return sources


def stanzas(text: str) -> list[dict[str, str]]:
    """Split a text in Debian's control format into its stanzas; continuation lines keep their line breaks."""
    result: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                result.append(fields)
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line
        elif ":" in line:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    return result


def machine_sources(folder: Path = APT_FOLDER) -> list[Source]:
    """Read every source that the machine's apt uses.

    Raises LabError when a file cannot be read.
    """
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    sources: list[Source] = []
    for file in files:
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            message = f"apt's sources cannot be read: {error}"
            raise LabError(message) from error
        if file.suffix == ".sources":
            sources += parse_deb822(text)
        elif file.suffix == ".list":
            sources += parse_one_line(text)
    return sources


def debian_sources(sources: Iterable[Source], codename: str) -> list[Source]:
    """Choose the Debian archive's entries for one release, and add the release's backports.

    An entry is Debian's when it is checked with Debian's keyring or, where it names no key, when its path has a part
    called `debian`; one with a key of its own counts only where there is no other. Raises LabError when there is none.
    """
    wanted = (codename, f"{codename}-updates", f"{codename}-security", f"{codename}/updates")
    candidates = []
    for source in sources:
        suites = tuple(suite for suite in source.suites if suite.rstrip("/") in wanted)
        if suites and "main" in source.components:
            candidates.append(Source(source.uris, suites, ("main",), source.options))
    chosen = [source for source in candidates if _is_debian(source)]
    if not any(codename in source.suites for source in chosen):
        chosen = [source for source in candidates if _has_debian_path(source)]
    archive = next((source for source in chosen if codename in source.suites), None)
    if archive is None:
        message = f"apt's sources have no entry of the Debian archive for {codename}"
        raise LabError(message, remedy=f"add the suite {codename}, component main, to {APT_FOLDER}/sources.list.d")
    return [*chosen, Source(archive.uris, (f"{codename}-backports",), ("main",), archive.options)]


def _is_debian(source: Source) -> bool:
    signed_by = source.option("Signed-By")
    return _KEYRING in signed_by if signed_by else _has_debian_path(source)


def _has_debian_path(source: Source) -> bool:
    return any(_DEBIAN_PATH.search(urlsplit(uri).path) for uri in source.uris)


def codename(os_release: Path = Path("/etc/os-release")) -> str:
    """Return the machine's Debian release, such as `bookworm`.

    Raises LabError when the machine is not a Debian of the architecture amd64.
    """
    fields = dict(line.split("=", 1) for line in os_release.read_text(encoding="utf-8").splitlines() if "=" in line)
    name = fields.get("VERSION_CODENAME", "").strip('"')
    if fields.get("ID", "").strip('"') != "debian" or not name:
        message = f"the laboratory is made of Debian packages, and this is {fields.get('PRETTY_NAME', 'no Debian')}"
        raise LabError(message, remedy="use a machine with Debian 12 or 13")
    machine = run(["dpkg", "--print-architecture"]).strip()
    if machine != ARCHITECTURE:
        message = f"the laboratory is made for {ARCHITECTURE}, and this machine is {machine}"
        raise LabError(message)
    return name


def installed(status: Path = DPKG_STATUS) -> dict[str, str]:
    """Return name and version of every package installed on the machine."""
    text = status.read_text(encoding="utf-8", errors="replace")
    pattern = re.compile(r"^(Package|Status|Version): (.*)$", re.MULTILINE)
    result = {}
    for stanza in text.split("\n\n"):
        fields = dict(pattern.findall(stanza))
        if fields.get("Status", "").endswith(" installed"):
            result[fields["Package"]] = fields.get("Version", "")
    return result


def status_without(status: str, hidden: Iterable[str]) -> str:
    """Return a dpkg status of the machine's packages less some, without their relations.

    Without relations a machine whose dpkg is in disorder elsewhere cannot get in the way, and apt never proposes to
    remove or to mend anything: it only adds what the wanted packages lack.
    """
    out = []
    kept = ("Package", "Status", "Architecture", "Multi-Arch", "Version", "Provides")
    for fields in stanzas(status):
        if fields.get("Package") in set(hidden) or not fields.get("Status", "").endswith(" installed"):
            continue
        lines = [f"{name}: {fields[name]}\n" for name in kept if name in fields]
        out.append("".join(lines) + "Maintainer: none <none@invalid>\nDescription: none\n")
    return "\n".join(out)


class Archive:
    """The Debian archive of one release, seen through apt with a state of its own below `folder`."""

    def __init__(self, folder: Path, release: str, sources: Sequence[Source]) -> None:
        """Lay out apt's folders; nothing is fetched yet."""
        self.folder = folder
        self.release = release
        for part in ("state/lists/partial", "cache/archives/partial", "nothing/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "empty").write_text("", encoding="utf-8")
        (folder / "preferences").write_text("", encoding="utf-8")
        (folder / "debian.sources").write_text("".join(source.stanza() for source in sources), encoding="utf-8")
        (folder / "apt.conf").write_text(self._configuration(), encoding="utf-8")
        (folder / "apt.conf").chmod(0o600)  # a proxy of the machine may carry a password

    def _configuration(self) -> str:
        """Keep how the machine fetches (proxies, timeouts), and nothing else of its configuration."""
        fetching = [
            line
            for line in run(["apt-config", "dump"]).splitlines()
            if re.match(r"Acquire::(http|https|ftp|Retries|ForceIPv)", line)
        ]
        own = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": str(self.folder / "preferences"),
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": str(self.folder / "debian.sources"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": str(self.folder / "state"),
            "Dir::State::status": str(self.folder / "empty"),
            "Dir::Cache": str(self.folder / "cache"),
            "APT::Architecture": ARCHITECTURE,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        return "\n".join([*fetching, *(f'{name} "{value}";' for name, value in own.items())]) + "\n"

    def update(self) -> None:
        """Fetch the lists of packages. Raises LabError when the archive does not answer."""
        self._apt("apt-get", "update", "--error-on=any")

    def prefer(self, suite: str, packages: Iterable[str]) -> None:
        """From now on take `packages` (names or patterns) from one suite, and the rest as the release has it."""
        pin = f"Package: {' '.join(packages)}\nPin: release n={suite}\nPin-Priority: 900\n"
        (self.folder / "preferences").write_text(pin, encoding="utf-8")

    def versions(self, package: str) -> dict[str, str]:
        """Return the newest version of a package in each suite that has it."""
        found: dict[str, str] = {}
        for line in self._apt("apt-cache", "madison", package).splitlines():
            name, version, origin = (part.strip() for part in line.split("|"))
            suite = origin.split()[1].split("/", 1)[0]
            if name == package and (suite not in found or newer(version, found[suite])):
                found[suite] = version
        return found

    def depends(self, package: str) -> str:
        """Return the Depends field of a package's candidate."""
        return stanzas(self._apt("apt-cache", "show", "--no-all-versions", package))[0].get("Depends", "")

    def closure(self, packages: Sequence[str], status: Path | None = None) -> list[str]:
        """Return the files that `packages` need which `status` lacks; without a status, all of them."""
        # apt lists only what it has not fetched before, so it is shown a folder where nothing is.
        listing = ("-o", f"Dir::Cache::archives={self.folder / 'nothing'}", "--print-uris")
        text = self._apt("apt-get", "install", "--yes", "--allow-downgrades", *listing, *packages, status=status)
        return [match["file"] for match in map(_FETCHED.match, text.splitlines()) if match]

    def fetch(self, packages: Sequence[str], status: Path | None = None) -> list[Package]:
        """Fetch `packages` and what they need that `status` lacks.

        Raises LabError when the archive has no such package or a download fails.
        """
        files = self.closure(packages, status)
        self._apt("apt-get", "install", "--yes", "--allow-downgrades", "--download-only", *packages, status=status)
        return [self._package(file) for file in files]

    def fetch_alone(self, package: str) -> Package:
        """Fetch one package without anything it depends on."""
        found = list(map(_FETCHED.match, self._apt("apt-get", "download", "--print-uris", package).splitlines()))
        match = next((match for match in found if match), None)
        if match is None:
            message = f"the Debian archive has no package {package}"
            raise LabError(message)
        self._apt("apt-get", "download", package, cwd=self.folder / "cache/archives")
        return self._package(match["file"])

    def _package(self, file: str) -> Package:
        name, version, _ = file.split("_", 2)
        return Package(name, unquote(version), self.folder / "cache/archives" / file)

    def _apt(self, *command: str, status: Path | None = None, cwd: Path | None = None) -> str:
        options = ["-o", f"Dir::State::status={status}"] if status else []
        environment = {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
        return run([command[0], *options, *command[1:]], environment=environment, cwd=cwd)


def open_archive(folder: Path, release: str) -> Archive:
    """Open the machine's Debian archive with a state below `folder`, its lists fetched anew."""
    archive = Archive(folder, release, debian_sources(machine_sources(), release))
    archive.update()
    return archive


def unpack(packages: Iterable[Package], root: Path) -> None:
    """Unpack packages below `root`, with /bin, /sbin and /lib merged into /usr as Debian has it."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        _extract(package.file, root)


def _extract(file: Path, root: Path) -> None:
    """Unpack one package; unlike `dpkg-deb --extract`, keep a symbolic link that stands for a directory."""
    tar = ["tar", "--extract", "--file=-", "--keep-directory-symlink", "--same-permissions", f"--directory={root}"]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE) as opened:
        done = subprocess.run(tar, stdin=opened.stdout, capture_output=True, text=True, check=False)
    if opened.returncode or done.returncode:
        message = f"{file.name} cannot be unpacked: {done.stderr.strip()}"
        raise LabError(message)


def newer(one: str, other: str) -> bool:
    """Say whether Debian version `one` is later than `other`."""
    return subprocess.run(["dpkg", "--compare-versions", one, "gt", other], check=False).returncode == 0


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command to its end and return its output; LabError carries what it said when it fails."""
    try:
        done = subprocess.run(
            command, env=environment, cwd=cwd, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        message = f"{command[0]} is not on this machine"
        raise LabError(message, remedy="run script/setup on Debian 12 or 13") from error
    except subprocess.CalledProcessError as error:
        tail = "\n".join((error.stderr or error.stdout).strip().splitlines()[-8:])
        message = f"{' '.join(command[:6])} ended with status {error.returncode}:\n{tail}"
        raise LabError(message) from error
    return done.stdout
