"""The mark of a rewind that is not finished (live/saves/rewind.py): machines and state may be of different times.

The program of a lab reads it, too: plain `pulumi up` does not pass the checks of `./hardway`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from config import paths
from config.errors import UserError

NAME = ".rewinding"
"""Of its file, beside the lab's kubeconfig."""


@dataclass(frozen=True, kw_only=True)
class Rewinding:
    """A rewind that has begun to change the lab.

    Args:
        save: the name of the save.
        since: when it began.
    """

    save: str
    since: str


def read(directory: Path) -> Rewinding | None:
    """The rewind that is not finished, if there is one.

    Args:
        directory: of the lab's files.
    """
    try:
        return Rewinding(**json.loads((directory / NAME).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        # It is written whole: whatever damaged it, the mark is there.
        return Rewinding(save="NAME", since="unknown")


def refusal(stack: str, begun: Rewinding) -> str:
    """What every command for the lab says."""
    return (
        f"A rewind of the lab {stack}, begun at {begun.since}, is not finished: its machines and its state "
        "may be of different times. Nothing was changed. Finish it: "
        f"`./hardway rewind -s {stack} {begun.save}`."
    )


def check(stack: str) -> None:
    """Raises:
    UserError: a rewind of the lab is not finished.
    """
    if begun := read(paths.state() / stack):
        raise UserError(refusal(stack, begun))
