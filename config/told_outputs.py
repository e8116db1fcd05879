"""What the program tells the command line that runs it: its outputs, secrets in clear.

The CLI has them from the program, too, and encrypts the secrets. To ask it for them afterwards takes half a second.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "HARDWAY_OUTPUTS"
"""The file that the program writes at its end, for the user's eyes only; who reads it removes it."""


def write(outputs: Mapping[str, Any]) -> None:
    """Write them where the command line has asked for them: plain values, all that the program exports."""
    if path := os.environ.get(VARIABLE):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            # In the order in which the CLI prints them.
            json.dump(outputs, file, sort_keys=True)


def take(path: Path) -> dict[str, Any] | None:
    """Read and remove the file; None where the program has not written all of it.

    Args:
        path: what `VARIABLE` was.
    """
    try:
        outputs: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    finally:
        path.unlink(missing_ok=True)
    return outputs
