"""The root directory of a Debian 13 host, and above it a layer with an ordinary user and the project's environment.

Both are made once and kept in the cache directory, named by what they are made of. HARDWAY_HOSTS names another place.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from lab.commands import CHECKOUT
from toolchain import paths

HERE = Path(__file__).parent
USER = "anna"
PROJECT = f"/home/{USER}/hardway"
_REQUIREMENTS = ("requirements.txt",)
_BOOTSTRAP = "toolchain/bootstrap.sh"
_PYTHON = "3.13"
_MAKE_USER = f"""set -eu
useradd --create-home --shell /bin/bash {USER}
echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}
echo '127.0.1.1 debian13' >>/etc/hosts
mkdir -p {PROJECT}
"""
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "linux")


def place() -> Path:
    """The directory for all of it."""
    return Path(os.environ.get("HARDWAY_HOSTS") or paths.cache() / "hosts-for-tests")


def root() -> Path:
    """The root directory; made in about two minutes where it is not there yet."""
    recipe = HERE / "make-root"
    made = place() / f"root-{_name_of([recipe])}"
    if not made.exists():
        _run(recipe, made)
    return made


def layers() -> str:
    """The user's layer and the root below it, as namespace-host takes them."""
    sources = [HERE / "make-root", *(CHECKOUT / name for name in (*_REQUIREMENTS, _BOOTSTRAP))]
    layer = place() / f"user-{_name_of(sources, _MAKE_USER)}"
    if not layer.exists():
        _make_user(layer)
    return f"{layer}:{root()}"


def _make_user(layer: Path) -> None:
    # Downloaded here, by the host's own settings of pip: the other host reaches no registry.
    wheels = place() / "wheels"
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    lists = [word for name in _REQUIREMENTS for word in ("--requirement", CHECKOUT / name)]
    only = ("--quiet", "--no-deps", "--only-binary=:all:", "--python-version", _PYTHON)
    _run(sys.executable, "-m", "pip", "download", *only, *platforms, "--dest", wheels, *lists)
    state, script = place() / "being-made", HERE / "namespace-host"
    if state.exists():
        _run(script, "stop", state)
    _run(script, "start", root(), state)
    try:
        _run(script, "run", state, "sh", "-c", _MAKE_USER)
        copy_files(state, PROJECT, CHECKOUT, [*_REQUIREMENTS, _BOOTSTRAP])
        copy_files(state, "/var/tmp", wheels.parent, [wheels.name])
        own = f"chown -R {USER}:{USER} {PROJECT}"
        make = f"cd {PROJECT} && PIP_NO_INDEX=1 PIP_FIND_LINKS=/var/tmp/wheels {_BOOTSTRAP}"
        _run(script, "run", state, "sh", "-c", f"{own} && su {USER} -c '{make}' && rm -r /var/tmp/wheels")
    except BaseException:
        _run(script, "stop", state)
        raise
    _run(script, "stop", state, layer)


def copy_files(state: Path, to: str, directory: Path, names: Iterable[str]) -> None:
    """Copy files and directories into a host that runs."""
    listing = "\0".join(names).encode()
    packed = subprocess.run(
        ["tar", "--directory", directory, "--null", "--files-from=-", "--create"],
        input=listing,
        stdout=subprocess.PIPE,
        check=True,
    )
    unpack: list[str | Path] = [
        HERE / "namespace-host",
        "run",
        state,
        "tar",
        "--directory",
        to,
        "--no-same-owner",
        "--extract",
    ]
    subprocess.run(unpack, input=packed.stdout, check=True)


def _name_of(sources: Iterable[Path], text: str = "") -> str:
    return hashlib.sha256(b"\0".join([*(source.read_bytes() for source in sources), text.encode()])).hexdigest()[:12]


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
