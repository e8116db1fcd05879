"""Labs that were stopped, and labs whose rewind is not finished: a mark beside the lab's files says so.

Commands that need a running lab then say what to run, instead of waiting for machines that do not answer.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from config.whole_file import write_whole
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_STOPPED = "stopped"
_REWINDING = ".rewinding"
MARKS = (_STOPPED, _REWINDING)
"""The names of their files."""


@dataclass(frozen=True, kw_only=True)
class Rewinding:
    """A rewind that has begun to change the lab.

    Args:
        save: the name of the save.
        since: when it began.
    """

    save: str
    since: str


def stopped_since(stack: Stack) -> str:
    """When `./hardway stop` stopped the lab; empty if it was not stopped."""
    try:
        return (stack.directory / _STOPPED).read_text().strip()
    except OSError:
        return ""


def mark_stopped(stack: Stack) -> None:
    """Note that the lab is stopped. The first note counts."""
    if not stopped_since(stack):
        write_whole(stack.directory / _STOPPED, f"{_now()}\n", sync=True)


def mark_started(stack: Stack) -> None:
    """Remove that note."""
    (stack.directory / _STOPPED).unlink(missing_ok=True)


def rewinding(stack: Stack) -> Rewinding | None:
    """The rewind that is not finished, if there is one."""
    file = stack.directory / _REWINDING
    try:
        return Rewinding(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        # It is written whole: whatever damaged it, the mark is there.
        return Rewinding(save="NAME", since="unknown")


def mark_rewinding(stack: Stack, save: str) -> None:
    """Note that a rewind begins to change the lab."""
    content = asdict(Rewinding(save=save, since=_now()))
    write_whole(stack.directory / _REWINDING, json.dumps(content) + "\n", sync=True)


def mark_rewound(stack: Stack) -> None:
    """Remove that note."""
    (stack.directory / _REWINDING).unlink(missing_ok=True)


def check_rewound(stack: Stack) -> None:
    """Raises:
    ToolchainError: a rewind is not finished: the machines and the state are of different times.
    """
    if begun := rewinding(stack):
        raise ToolchainError(
            f"A rewind of the lab {stack.name}, begun at {begun.since}, is not finished: its machines and its state "
            "may be of different times. Nothing was changed. Finish it: "
            f"`./hardway rewind -s {stack.name} {begun.save}`."
        )


def check_runs(stack: Stack) -> None:
    """Raises:
    ToolchainError: the lab is stopped, or a rewind is not finished.
    """
    check_rewound(stack)
    if since := stopped_since(stack):
        raise ToolchainError(f"{said_stopped(stack, since)} Start it: `./hardway start -s {stack.name}`.")


def said_stopped(stack: Stack, since: str) -> str:
    """The sentence for a lab that is stopped."""
    return f"The lab {stack.name} is stopped, since {since}."


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
