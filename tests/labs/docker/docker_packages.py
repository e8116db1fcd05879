"""Docker from the host's distribution, unpacked and not installed: nothing is started, no firewall is changed."""

import shutil
import subprocess
from pathlib import Path

from toolchain import paths

_PACKAGES = ("docker.io", "containerd", "runc", "tini")
# Debian 13 has the command in a package of its own.
_WHERE_IT_IS = ("docker-cli",)


def programs() -> Path:
    """The directory with `docker`, `dockerd` and what they run; fetched once."""
    place = paths.cache() / "docker-for-tests"
    found = place / "programs"
    if not (found / "dockerd").exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "packages").mkdir(parents=True)
        known = [name for name in _WHERE_IT_IS if _run("apt-cache", "show", name).returncode == 0]
        if (fetched := _download(place / "packages", *_PACKAGES, *known)).returncode != 0:
            _run("apt-get", "-q", "update")
            fetched = _download(place / "packages", *_PACKAGES, *known)
        assert fetched.returncode == 0, fetched.stderr
        for package in (place / "packages").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, place / "root"], check=True)
        unfinished = place / "unfinished"
        unfinished.mkdir()
        for directory in ("usr/bin", "usr/sbin"):
            for program in (place / "root" / directory).iterdir():
                (unfinished / program.name).unlink(missing_ok=True)
                (unfinished / program.name).symlink_to(program.resolve())
        unfinished.rename(found)
    return found


def _download(place: Path, *packages: str) -> subprocess.CompletedProcess[str]:
    return _run("apt-get", "-q", "download", *packages, cwd=place)


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
