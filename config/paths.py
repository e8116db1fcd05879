"""Where the project keeps things on the Pulumi host. Nothing here makes a directory or looks whether one exists."""

import os
import pwd
from pathlib import Path


def checkout() -> Path:
    """The project's own directory."""
    return Path(__file__).resolve().parent.parent


def settings_file(stack: str) -> Path:
    """Pulumi.<stack>.yaml: in the checkout; of the labs of tests and benchmarks in `tests/stacks`."""
    file = checkout() / f"Pulumi.{stack}.yaml"
    of_tests = stacks_of_tests() / file.name
    return of_tests if of_tests.exists() and not file.exists() else file


def stacks_of_tests() -> Path:
    """Where the settings files of the tests' and benchmarks' own labs are. No user chooses one of these."""
    return checkout() / "tests" / "stacks"


def cache() -> Path:
    """What can be had again, shared by all checkouts: HARDWAY_CACHE, else `hardway` in the user's cache directory.

    Under sudo the user is the owner of the checkout: his commands without sudo then find the same files. The machines
    of a lab mount the mirror by its path, so a checkout stays with the directory that `record_cache` has written down.
    """
    if moved := os.environ.get("HARDWAY_CACHE"):
        return Path(moved).expanduser().resolve()
    try:
        if recorded := cache_record().read_text().strip():
            return Path(recorded)
    except (FileNotFoundError, PermissionError):
        pass
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hardway"
    owner = owner_besides_root()
    if owner is None or (home := home_of(owner.st_uid)) is None:
        return own
    # Labs of this checkout that an earlier version has made with sudo mount root's mirror.
    has_older_labs = (own / "mirror").exists() and (state() / ".pulumi").exists()
    return own if has_older_labs else home / ".cache" / "hardway"


def record_cache() -> None:
    """Write down which cache the checkout uses. Only where root works in the checkout of another user."""
    if owner_besides_root() is not None and not os.environ.get("HARDWAY_CACHE"):
        cache_record().write_text(f"{cache()}\n")


def cache_record() -> Path:
    """The file in which the checkout's cache directory is written down."""
    return state() / "cache-directory"


def owner_besides_root() -> os.stat_result | None:
    """The owner of the checkout where this is root, and the owner is not; else None."""
    found = checkout().stat()
    return found if os.geteuid() == 0 and found.st_uid != 0 else None


def home_of(uid: int) -> Path | None:
    """The home directory of a user; None where there is none that belongs to the user."""
    try:
        home = Path(pwd.getpwuid(uid).pw_dir)
        return home if home.stat().st_uid == uid else None
    except (KeyError, OSError):
        return None


def mirror() -> Path:
    """Artifacts and image archives, in upstream's layout: `<host>/<path>`."""
    return cache() / "mirror"


def locks() -> Path:
    """Lock files: see `exclusive`."""
    return cache() / "locks"


def scratch() -> Path:
    """Where work in progress lies, on the same file system as the mirror, so that a finished file can be moved."""
    return cache() / "scratch"


def members() -> Path:
    """Checksums of the members of archives, one file for each archive: see `live.drift.archives`."""
    return cache() / "members"


def state() -> Path:
    """What belongs to this checkout and must not be lost: Pulumi's file backend and its passphrase."""
    return checkout() / ".state"


def modules() -> Path:
    """The Go modules (go.mod and go.sum) that binaries are built from where no release can be had."""
    return checkout() / "toolchain" / "from_source" / "modules"
