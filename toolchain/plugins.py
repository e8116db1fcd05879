"""The engine's plugins: the language host and the providers; official ones, or the stand-ins of this project.

The engine looks for a plugin on PATH first. `.state/plugins` is put there: it links to the stand-ins in use,
and to no others, so that what it holds is also the record of what could not be had.
"""

import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path

from toolchain import origin, paths
from toolchain.errors import ToolchainError
from toolchain.origin import Origin
from toolchain.progress import Report

_STANDINS = Path(__file__).parent / "standins" / "bin"
_LANGUAGE_HOST = "pulumi-language-python"
_INSTALL_SECONDS = 180.0
_RELEASE = "https://get.pulumi.com/releases/plugins/pulumi-resource-{name}-v{version}-linux-amd64.tar.gz"


def on_path() -> Path:
    """The directory that has to stand in front of PATH for the engine; may be empty."""
    return paths.state() / "plugins"


def ensure(report: Report, cli: Path, providers: Mapping[str, str], *, retry: bool = False) -> None:
    """Have the language host and some providers.

    Args:
        report: shows the progress, and says if stand-ins are taken into use.
        cli: the `pulumi` command; its official archive has the language host beside it.
        providers: provider -> version.
        retry: ask again for official plugins that could not be had when they were last asked for.

    Raises:
        ToolchainError: a plugin can neither be installed nor stood in for.
    """
    in_use = {link.name for link in on_path().iterdir()} if on_path().exists() else set()
    problems: dict[str, str] = {}
    refused = set() if retry or origin.policy() is Origin.UPSTREAM else in_use
    needed = {
        executable
        for name, version in providers.items()
        if (executable := f"pulumi-resource-{name}") in refused or not _official(report, cli, name, version, problems)
    }
    if origin.policy() is Origin.SOURCE or not (cli.parent / _LANGUAGE_HOST).exists():
        needed.add(_LANGUAGE_HOST)
    _check(needed)
    _link(on_path(), needed)
    if needed - in_use:
        report.note(
            f"Stand-ins from toolchain/standins serve for {', '.join(sorted(needed))}: {_reason(problems)} "
            "`make setup` asks again."
        )


def _official(report: Report, cli: Path, name: str, version: str, problems: dict[str, str]) -> bool:
    """Whether the official provider is there, be it installed now; if not, a stand-in may serve."""
    if origin.policy() is Origin.SOURCE:
        return False
    return _is_installed(name, version) or _install(report, cli, name, version, problems)


def _is_installed(name: str, version: str) -> bool:
    # As the CLI finds it: not by HOME, which sudo may keep.
    home = Path(os.environ.get("PULUMI_HOME") or Path(pwd.getpwuid(os.getuid()).pw_dir) / ".pulumi")
    directory = home / "plugins" / f"resource-{name}-v{version}"
    # The CLI marks a plugin that it is still unpacking, or was killed over, with a file of this name.
    return directory.is_dir() and not directory.with_name(f"{directory.name}.partial").exists()


def _install(report: Report, cli: Path, name: str, version: str, problems: dict[str, str]) -> bool:
    release = _RELEASE.format(name=name, version=version)
    if origin.of_release(release) is Origin.SOURCE:
        problems[name] = origin.why_release_is_built(release)
        return False
    with report.part(f"Pulumi provider {name} {version}") as part:
        part.say("installing")
        problem = _ask_cli(cli, name, version)
        if problem is None:
            return True
        if origin.policy() is Origin.UPSTREAM:
            raise ToolchainError(
                f"The official Pulumi provider {name} {version} cannot be installed: {problem}\n"
                "TOOLCHAIN=upstream forbids stand-ins: unset it, or make the release reachable."
            )
        problems[name] = f"{name} {version} cannot be installed ({problem})"
        part.say("not to be had")
        return False


def _ask_cli(cli: Path, name: str, version: str) -> str | None:
    """What went wrong, if something did."""
    try:
        done = subprocess.run(
            [cli, "plugin", "install", "resource", name, version],
            env=os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_INSTALL_SECONDS:.0f} s"
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()[-500:]


def _check(needed: set[str]) -> None:
    absent = sorted(name for name in needed if not (_STANDINS / name).exists())
    if absent:
        raise ToolchainError(
            f"{', '.join(absent)}: the official one cannot be installed, and this project has no "
            "stand-in for it. Run this where Pulumi's releases can be reached, without TOOLCHAIN=source."
        )
    if needed and origin.policy() is Origin.UPSTREAM:
        raise ToolchainError(
            f"{', '.join(sorted(needed))}: there is no official one here, and TOOLCHAIN=upstream forbids stand-ins."
        )


def _link(links: Path, names: set[str]) -> None:
    links.mkdir(parents=True, exist_ok=True)
    for stale in links.iterdir():
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    for name in names:
        target = _STANDINS / name
        if not (links / name).is_symlink() or (links / name).readlink() != target:
            # Replaced in one move: another run may be starting the engine at this moment.
            draft = links / f".{name}.{os.getpid()}"
            draft.symlink_to(target)
            draft.replace(links / name)


def _reason(problems: Mapping[str, str]) -> str:
    if origin.policy() is Origin.SOURCE:
        return "TOOLCHAIN=source demands it."
    if problems:
        return f"the official ones cannot be had from here ({'; '.join(dict.fromkeys(problems.values()))})."
    return "the official ones cannot be had from here."
