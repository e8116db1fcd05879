"""The packages of `hardway view`: installed in the cache when `view` is run for the first time.

No other command needs them, so that they cost set-up nothing. They are pinned with checksums like the program's own.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.progress import Report

_REQUIREMENTS = Path("live") / "view" / "requirements.txt"
_PIP = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--require-hashes", "--only-binary=:all:")
# Where a user's own settings send packages is meant for other environments.
_LEFT_OUT = frozenset({"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_USER", "PYTHONPATH", "PYTHONHOME"})


def provide() -> Path:
    """Have the packages, and let this process import them.

    Returns:
        The directory that they are in.

    Raises:
        ToolchainError: they cannot be installed; pip's output says why.
    """
    place = _installed()
    if str(place) not in sys.path:
        # Last: what the program itself has is the program's.
        sys.path.append(str(place))
    return place


def scripts(place: Path) -> Path:
    """The directory with htmx and its extensions, of what `provide` returned."""
    return place / "django_htmx" / "static" / "django_htmx"


def _installed() -> Path:
    requirements = paths.checkout() / _REQUIREMENTS
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    place = paths.cache() / "view" / wanted
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(f".{wanted}.lock")
    with (
        Report() as report,
        report.part("packages of hardway view") as part,
        exclusive(lock, what="installing the packages of view", part=part),
    ):
        if not place.exists():
            _install(requirements, place)
    return place


def _install(requirements: Path, place: Path) -> None:
    draft = place.with_name(f"{place.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *_PIP,
        "--target",
        str(draft),
        "--requirement",
        str(requirements),
    ]
    environment = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        said = (made.stderr.strip() or made.stdout.strip() or f"pip ended with status {made.returncode}").splitlines()
        raise ToolchainError(
            f"The packages of `hardway view` cannot be installed: {said[-1]}\n"
            "Make the Python package index reachable, and run the same command again."
        )
    draft.rename(place)
