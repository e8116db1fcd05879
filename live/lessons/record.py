"""Which lesson a lab has: a file beside the lab's others, which `destroy` removes with them.

It is written before the lab is changed, so that the next `start` or `reset` finishes what a killed one has left.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from config.whole_file import write_whole
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

Phase = Literal["starting", "started", "resetting"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """The state of a lesson on a lab.

    Args:
        lesson: its name.
        phase: `starting` until the symptom shows, `resetting` until the lab is as before.
        since: when it was started, RFC 3339 in UTC.
        hints: how many were shown.
        solution_shown: whether `solve` was asked.
    """

    lesson: str
    phase: Phase
    since: str
    hints: int = 0
    solution_shown: bool = False


def _file(stack: Stack) -> Path:
    return stack.directory / "lesson.json"


def read(stack: Stack) -> Record | None:
    """The lesson of a lab; None where it has none.

    Raises:
        ToolchainError: the file is damaged.
    """
    file = _file(stack)
    try:
        return Record(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ToolchainError(
            f"{file} cannot be read ({error}). Remove it, and run `./hardway repair -s {stack.name}`."
        ) from error


def write(stack: Stack, record: Record) -> None:
    """Keep it."""
    write_whole(_file(stack), json.dumps(asdict(record), indent=2) + "\n")


def remove(stack: Stack) -> None:
    """The lab has no lesson any more."""
    _file(stack).unlink(missing_ok=True)


def refuse(stack: Stack, what: str) -> None:
    """Refuse what would measure or break a lab that a lesson has broken.

    Args:
        stack: whose lab.
        what: is refused: "A drill".

    Raises:
        ToolchainError: a lesson is started.
    """
    if record := read(stack):
        raise ToolchainError(
            f"The lab {stack.name} has the lesson {record.lesson} since {record.since}. {what} needs a lab without "
            f"one; nothing was changed. End it: ./hardway lesson reset -s {stack.name}"
        )
