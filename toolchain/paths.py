"""Where the tool chain keeps things. Nothing here makes a directory or looks whether one exists."""

import os
from pathlib import Path


def checkout() -> Path:
    """The project's own directory."""
    return Path(__file__).resolve().parent.parent


def cache() -> Path:
    """What can be had again, shared by all checkouts: HARDWAY_CACHE, else `hardway` in the user's cache directory."""
    if moved := os.environ.get("HARDWAY_CACHE"):
        return Path(moved).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hardway"


def mirror() -> Path:
    """Artifacts and image archives, in upstream's layout: `<host>/<path>`."""
    return cache() / "mirror"


def locks() -> Path:
    """Lock files: see `exclusive`."""
    return cache() / "locks"


def scratch() -> Path:
    """Where work in progress lies, on the same file system as the mirror, so that a finished file can be moved."""
    return cache() / "scratch"


def state() -> Path:
    """What belongs to this checkout and must not be lost: Pulumi's file backend and its passphrase."""
    return checkout() / ".state"


def modules() -> Path:
    """The Go modules (go.mod and go.sum) that binaries are built from where no release can be had."""
    return checkout() / "toolchain" / "modules"
