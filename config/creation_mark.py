"""The mark of a first `up` that saves the state once, at its end, and was killed before: no state has what it created.

The Pulumi engine saves the whole state before and after each resource, which is most of the processor time that it
needs for a new lab. In the first `up` of a lab in containers it saves when the run ends, also after Ctrl-C or a failed
step. A run that is killed leaves the state as it was, and on the host a lab whose key is in no state. So the mark has
the lab's identity, the fingerprint of that key. The program writes it there before the engine gets the first command
that creates something. The next `up` or `destroy` removes from the host what has exactly that identity
(toolchain/first_up.py).

The program of a lab reads the mark, too: plain `pulumi up` does not pass the checks of `./hardway`.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from config import paths, recorded_state
from config.errors import UserError
from config.whole_file import remove_with_directory, sync, write_whole

NAME = ".creating"
"""Of its file, beside the lab's kubeconfig."""
VARIABLE = "HARDWAY_CREATING"
"""The environment variable by which the command line tells the program the path of the mark."""


@dataclass(frozen=True, kw_only=True)
class Creating:
    """A first `up` whose end has not saved the state, or has not removed the mark.

    Args:
        since: when it began.
        state: the file with the state.
        substrate: what the machines are made of.
        identity: of the lab; empty where nothing was created yet.
    """

    since: str
    state: str
    substrate: str
    identity: str = ""


def write(directory: Path, state: Path, substrate: str, since: str) -> Path:
    """Mark that a first `up` begins.

    Args:
        directory: of the lab's files; created if need be.
        state: the file with the lab's state.
        substrate: of the lab.
        since: now, in words.

    Returns:
        The file.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    begun = {"since": since, "state": str(state), "substrate": substrate}
    write_whole(directory / NAME, json.dumps(begun) + "\n", sync=True)
    for each in (directory, directory.parent):
        sync(each)
    return directory / NAME


def note(identity: str) -> None:
    """Write the lab's identity into the mark of this run, where it has one. On return it survives a power failure.

    Raises:
        FileNotFoundError: the mark is gone: the run has ended, and this is left of it.
    """
    if path := os.environ.get(VARIABLE):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "w") as file:
            file.write(f"{identity}\n")
            file.flush()
            os.fsync(file.fileno())


def read(directory: Path) -> Creating | None:
    """The mark, if there is one.

    Args:
        directory: of the lab's files.
    """
    try:
        first, *rest = (directory / NAME).read_text().split("\n")
        # A line without its end was not written to the end: nothing was created then.
        return Creating(**json.loads(first), identity=rest[0] if len(rest) > 1 else "")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        # It is written whole. Whatever damaged it, it proves nothing of any lab.
        return Creating(since="unknown", state="", substrate="")


def remove(directory: Path) -> None:
    """Remove the mark, and the directory where it has nothing else."""
    remove_with_directory(directory / NAME)


def check(stack: str) -> None:
    """Refuse a run that is not the one of the mark.

    Raises:
        UserError: the first `up` of the lab is not finished.
    """
    directory = paths.state() / stack
    begun = read(directory)
    if begun is None or not begun.identity or os.environ.get(VARIABLE) == str(directory / NAME):
        return
    if begun.state == str(recorded_state.file_of(stack, paths.state())):
        raise UserError(
            f"The first up of the lab {stack}, begun at {begun.since}, was killed. Nothing was changed. "
            f"Finish it: `./hardway up -s {stack}`; or remove what it created: `./hardway destroy -s {stack}`."
        )
