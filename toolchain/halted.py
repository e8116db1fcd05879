"""Labs that were stopped, and labs whose rewind or destroy is not finished: a mark beside the lab's files says so.

Commands that need a running lab then say what to run, instead of waiting for machines that do not answer.
"""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from config import creation_mark, destroy_mark, rewind_mark
from config.rewind_mark import Rewinding
from config.whole_file import write_whole
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_STOPPED = "stopped"
MARKS = (_STOPPED, rewind_mark.NAME, destroy_mark.NAME, creation_mark.NAME)
"""The names of their files."""


def stopped_since(stack: Stack) -> str:
    """When `./hardway stop` stopped the lab; empty if it was not stopped."""
    try:
        return (stack.directory / _STOPPED).read_text().strip()
    except OSError:
        return ""


def mark_stopped(stack: Stack) -> None:
    """Note that the lab is stopped. The first note counts."""
    if not stopped_since(stack):
        write_whole(stack.directory / _STOPPED, f"{now()}\n", sync=True)


def mark_started(stack: Stack) -> None:
    """Remove that note."""
    (stack.directory / _STOPPED).unlink(missing_ok=True)


def rewinding(stack: Stack) -> Rewinding | None:
    """The rewind that is not finished, if there is one."""
    return rewind_mark.read(stack.directory)


def mark_rewinding(stack: Stack, save: str) -> None:
    """Note that a rewind begins to change the lab."""
    content = asdict(Rewinding(save=save, since=now()))
    write_whole(stack.directory / rewind_mark.NAME, json.dumps(content) + "\n", sync=True)


def mark_rewound(stack: Stack) -> None:
    """Remove that note."""
    (stack.directory / rewind_mark.NAME).unlink(missing_ok=True)


def is_destroying(stack: Stack) -> bool:
    """Whether a destroy is not finished."""
    return destroy_mark.read(stack.directory) is not None


def mark_destroying(stack: Stack, state: Path) -> None:
    """Note that a destroy begins that saves the state at its end.

    Args:
        stack: whose.
        state: the file with its state.
    """
    destroy_mark.write(stack.directory, state, now())


def mark_destroyed(stack: Stack, *, fits: bool) -> None:
    """Remove that note, unless the state still has what the destroy has deleted.

    Args:
        stack: whose.
        fits: whether it has deleted nothing, or has saved the state at its end, for certain.
    """
    if fits or destroy_mark.read(stack.directory) is None:
        destroy_mark.remove(stack.directory)


def check_state_fits(stack: Stack) -> None:
    """Raises:
    ToolchainError: a rewind or a destroy is not finished: the machines and the state are of different times.
    """
    if begun := rewinding(stack):
        raise ToolchainError(rewind_mark.refusal(stack.name, begun))
    check_destroyed(stack)


def check_destroyed(stack: Stack) -> None:
    """Raises:
    ToolchainError: a destroy is not finished.
    """
    if begun := destroy_mark.read(stack.directory):
        raise ToolchainError(destroy_mark.refusal(stack.name, begun))


def check_runs(stack: Stack) -> None:
    """Raises:
    ToolchainError: the lab is stopped, or a rewind or a destroy is not finished.
    """
    check_state_fits(stack)
    if since := stopped_since(stack):
        raise ToolchainError(f"{said_stopped(stack, since)} Start it: `./hardway start -s {stack.name}`.")


def said_stopped(stack: Stack, since: str) -> str:
    """The sentence for a lab that is stopped."""
    return f"The lab {stack.name} is stopped, since {since}."


def now() -> str:
    """The time, in words."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
