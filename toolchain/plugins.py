"""The engine's plugins: the language host and the providers; official ones, or the stand-ins of this project.

An official provider comes as an archive, by this project's own download, and the CLI unpacks it: the CLI's own check
of a checksum (`pulumi plugin install --checksum`, 3.259.0) refuses right archives. The archives stay in the cache, with
a ledger as the mirror has one.

The engine looks for a plugin on PATH first. `.state/plugins` is put there: it links to the stand-ins in use,
and to no others, so that what it holds is also the record of what could not be had.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from config.whole_file import link_whole
from toolchain import origin, paths, pulumi_home
from toolchain.command import ask
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.ledger import Ledger
from toolchain.origin import Origin
from toolchain.progress import Part, Report
from toolchain.releases.download import ChecksumError, DownloadError, download, first_download
from toolchain.versions import Plugin, architecture

_STANDINS = Path(__file__).parent / "from_source" / "standins" / "bin"
_LANGUAGE_HOST = "pulumi-language-python"
_INSTALL_SECONDS = 180.0
RELEASES = "https://github.com/pulumi"


def on_path() -> Path:
    """The directory that has to stand in front of PATH for the engine; may be empty."""
    return paths.state() / "plugins"


def release_of(name: str, version: str, *, releases: str = RELEASES) -> str:
    """The URL of a provider's release, without the name of a file."""
    return f"{releases}/pulumi-{name}/releases/download/v{version}"


def archive_name(name: str, version: str, arch: str) -> str:
    """The file of a provider's release that is for Linux and one architecture."""
    return f"pulumi-resource-{name}-v{version}-linux-{arch}.tar.gz"


def checksums_name(name: str, version: str) -> str:
    """The file of a provider's release that lists the sums of the others, of SHA-256 or of SHA-1."""
    return f"pulumi-{name}_{version}_checksums.txt"


def archives() -> Path:
    """Where the archives of installed providers are, with the ledger of what was downloaded."""
    return paths.cache() / "plugins"


def ensure(
    report: Report, cli: Path, providers: Mapping[str, Plugin], *, retry: bool = False, releases: str = RELEASES
) -> None:
    """Have the language host and some providers.

    Args:
        report: shows the progress, and says if stand-ins are taken into use.
        cli: the `pulumi` command; its official archive has the language host beside it.
        providers: by name.
        retry: ask again for official plugins that could not be had when they were last asked for.
        releases: where upstream's releases are.

    Raises:
        ToolchainError: a plugin can neither be installed nor stood in for, or an archive has a wrong checksum.
    """
    in_use = {link.name for link in on_path().iterdir()} if on_path().exists() else set()
    official = _Official(report, cli, releases)
    refused = set() if retry or not origin.permits(Origin.SOURCE) else in_use
    wants_official = origin.permits(Origin.UPSTREAM)
    needed = {
        executable
        for name, plugin in providers.items()
        if (executable := f"pulumi-resource-{name}") in refused or not (wants_official and official.has(name, plugin))
    }
    if not wants_official or not (cli.parent / _LANGUAGE_HOST).exists():
        needed.add(_LANGUAGE_HOST)
    _check(needed, official.problems)
    _link(on_path(), needed)
    if needed - in_use:
        report.note(
            f"Stand-ins from toolchain/from_source/standins serve for {', '.join(sorted(needed))}: "
            f"{_reason(official.problems)} `./hardway setup` asks again."
        )


def _is_installed(name: str, version: str) -> bool:
    directory = pulumi_home.of_user() / "plugins" / f"resource-{name}-v{version}"
    # The CLI marks a plugin that it is still unpacking, or was killed over, with a file of this name.
    return directory.is_dir() and not directory.with_name(f"{directory.name}.partial").exists()


class _Official:
    """Installs official providers, and notes why one cannot be had."""

    def __init__(self, report: Report, cli: Path, releases: str) -> None:
        self._report = report
        self._cli = cli
        self._releases = releases
        self._ledger = Ledger(archives())
        self.problems: dict[str, str] = {}
        """Provider -> why it cannot be had."""

    def has(self, name: str, plugin: Plugin) -> bool:
        """Whether the official provider is there, be it installed now; if not, a stand-in may serve."""
        return _is_installed(name, plugin.version) or self._install(name, plugin)

    def _install(self, name: str, plugin: Plugin) -> bool:
        file = archive_name(name, plugin.version, architecture())
        url = f"{release_of(name, plugin.version, releases=self._releases)}/{file}"
        pin = plugin.archive.get(architecture())
        is_here = self._is_here(file, pin)
        if not is_here and (why := origin.released(url).why_not()):
            self.problems[name] = why
            return False
        with self._report.part(f"Pulumi provider {name} {plugin.version}") as part:
            try:
                if not is_here:
                    self._download(part, url, file, pin)
                part.say("installing")
                _unpack(self._cli, name, plugin.version, archives() / file)
            except ChecksumError:
                # Not a release that is out of reach: a stand-in must not hide it.
                raise
            except ToolchainError as error:
                why = error.why if isinstance(error, DownloadError) else str(error)
                if not origin.permits(Origin.SOURCE):
                    raise ToolchainError(
                        f"The official Pulumi provider {name} {plugin.version} cannot be installed: {why}\n"
                        "TOOLCHAIN=upstream forbids stand-ins: unset it, or make the release reachable."
                    ) from error
                self.problems[name] = f"{name} {plugin.version} cannot be installed: {why.rstrip('.')}"
                part.say("not to be had")
                return False
        return True

    def _is_here(self, file: str, pin: str | None) -> bool:
        entry = self._ledger.entry(file)
        return entry is not None and pin in (None, entry.sha256)

    def _download(self, part: Part, url: str, file: str, pin: str | None) -> None:
        with exclusive(paths.locks() / "plugins", what=f"downloading {file}", part=part):
            if self._is_here(file, pin):
                return
            archive = archives() / file
            if expected := pin or self._ledger.locked(file):
                download(url, archive, sha256=expected, part=part)
            else:
                first_download(url, archive, part=part)
            # Other users install from it; root's umask may say otherwise.
            archives().chmod(0o755)
            archive.chmod(0o644)
            self._ledger.record(file, origin=Origin.UPSTREAM, made_of=url)


def _unpack(cli: Path, name: str, version: str, archive: Path) -> None:
    try:
        # Without --exact, and with PULUMI_ENABLE_LEGACY_PLUGIN_SEARCH, a newer one that is there would do.
        install = (cli, "plugin", "install", "resource", name, version, "--exact", "--file", archive)
        done = ask(*install, env=os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "1"}, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(f"`pulumi plugin install` has not ended within {_INSTALL_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise ToolchainError((done.stderr or done.stdout).strip()[-500:])


def _check(needed: set[str], problems: Mapping[str, str]) -> None:
    absent = sorted(name for name in needed if not (_STANDINS / name).exists())
    if absent:
        raise ToolchainError(
            f"{', '.join(absent)}: this project has no stand-in for it, and {_reason(problems)} "
            "Run this where Pulumi's releases can be reached, without TOOLCHAIN=source."
        )
    if needed and not origin.permits(Origin.SOURCE):
        raise ToolchainError(
            f"{', '.join(sorted(needed))}: there is no official one here, and TOOLCHAIN=upstream forbids stand-ins."
        )


def _link(links: Path, names: set[str]) -> None:
    links.mkdir(parents=True, exist_ok=True)
    for stale in links.iterdir():
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    for name in names:
        link_whole(links / name, _STANDINS / name)


def _reason(problems: Mapping[str, str]) -> str:
    if not origin.permits(Origin.UPSTREAM):
        return "TOOLCHAIN=source demands it."
    if problems:
        return f"the official ones cannot be had from here ({'; '.join(dict.fromkeys(problems.values()))})."
    return "the official ones cannot be had from here."
