"""What Pulumi's state has of a lab, where it is a file on the Pulumi host: read as it is, without the CLI."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from config.errors import UserError

SECRET_KEY = "4dabf18193072939515e22adb298388d"
"""The key by which Pulumi marks a secret in a state."""


def login() -> str | None:
    """The backend that the user has chosen, however that was done; None if there is none."""
    if url := os.environ.get("PULUMI_BACKEND_URL"):
        return url
    if os.environ.get("PULUMI_ACCESS_TOKEN"):
        return "the service that the access token is for"
    credentials = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi") / "credentials.json"
    try:
        current = json.loads(credentials.read_text()).get("current")
    except (OSError, ValueError):
        return None
    return str(current) if current else None


def directory_of(backend: str) -> Path | None:
    """The directory of a backend of files, without the options behind its `?`; None for any other backend."""
    if not backend.startswith("file://"):
        return None
    return Path(unquote(backend.removeprefix("file://").partition("?")[0])).expanduser()


def file_of(stack: str, state: Path) -> Path | None:
    """Where the state of a lab is, also if there is none yet; None where the backend is no directory.

    Args:
        stack: whose.
        state: the directory with what this checkout keeps of its labs, where the state is if no backend is chosen.
    """
    backend = login()
    directory = state if backend is None else directory_of(backend)
    return None if directory is None else in_directory(directory, stack)


def in_directory(directory: Path, stack: str) -> Path:
    """The file in which a backend of files has the state of a lab."""
    return directory / ".pulumi" / "stacks" / "hardway" / f"{stack}.json"


def resources(file: Path) -> Sequence[Mapping[str, Any]]:
    """The resources in a state; none where the file does not exist, or has no deployment yet.

    Raises:
        UserError: it cannot be read.
    """
    try:
        # After a power failure it may end with NUL bytes, until set-up has removed them.
        latest = json.loads(file.read_text().rstrip("\0"))["checkpoint"].get("latest") or {}
        return list(latest.get("resources") or ())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"The state {file} cannot be read ({type(error).__name__}: {error}).") from error
