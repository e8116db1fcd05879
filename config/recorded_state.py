"""What Pulumi's state has of a lab, where it is a file on the Pulumi host: read as it is, without the CLI."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.errors import UserError

_BACKEND = "PULUMI_BACKEND_URL"
_FILE = "file://"


def file_of(stack: str, state: Path) -> Path | None:
    """Where the state of a lab is, also if there is none yet; None where the backend is no directory.

    Args:
        stack: whose.
        state: the directory with what this checkout keeps of its labs, where the state is if nothing else is said.
    """
    backend = os.environ.get(_BACKEND, "")
    if backend and not backend.startswith(_FILE):
        return None
    directory = Path(backend.removeprefix(_FILE)).expanduser() if backend else state
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
