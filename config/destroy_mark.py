"""The mark of a `destroy` that saves the state once, at its end, and was killed before: the state has what is deleted.

The Pulumi engine saves the whole state before and after each deletion, which takes longer than the deletions of a lab
in containers. There `./hardway destroy` has it saved when the run ends, also after Ctrl-C or a failed deletion. A run
that is killed, or whose last save fails, leaves the state as it was. Then only another `destroy` may follow: it deletes
again, which succeeds for what is gone already (`Traits.deletes_again`).

The program of a lab reads the mark, too: plain `pulumi up` does not pass the checks of `./hardway`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from config import paths, recorded_state
from config.errors import UserError
from config.whole_file import remove_with_directory, write_whole

NAME = ".destroying"
"""Of its file, beside the lab's kubeconfig."""


@dataclass(frozen=True, kw_only=True)
class Destroying:
    """A `destroy` that may have deleted what the state still has.

    Args:
        since: when it began.
        state: the file with the state.
        resources: a checksum of the resources that it had when it began. The file itself changes also by a plain
            `pulumi up` that the program refuses.
    """

    since: str
    state: str
    resources: str


def write(directory: Path, state: Path, since: str) -> None:
    """Mark that a `destroy` begins.

    Args:
        directory: of the lab's files; created if need be.
        state: the file with the lab's state.
        since: now, in words.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = Destroying(since=since, state=str(state), resources=_checksum(state))
    write_whole(directory / NAME, json.dumps(asdict(mark)) + "\n", sync=True)


def read(directory: Path) -> Destroying | None:
    """The `destroy` whose deletions the state does not have, if there is one.

    Args:
        directory: of the lab's files.
    """
    try:
        mark = Destroying(**json.loads((directory / NAME).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        # It is written whole: whatever damaged it, the mark is there.
        return Destroying(since="unknown", state="", resources="")
    # A later state lacks what was deleted.
    return mark if _checksum(Path(mark.state)) == mark.resources else None


def remove(directory: Path) -> None:
    """Remove the mark, and the directory where it has nothing else."""
    remove_with_directory(directory / NAME)


def refusal(stack: str, begun: Destroying) -> str:
    """What every command for the lab says."""
    return (
        f"A destroy of the lab {stack}, begun at {begun.since}, was killed: the state still has what it has removed. "
        f"Nothing was changed. Finish it: `./hardway destroy -s {stack}`."
    )


def check(stack: str) -> None:
    """Raises:
    UserError: a destroy of the lab is not finished.
    """
    if begun := read(paths.state() / stack):
        raise UserError(refusal(stack, begun))


def _checksum(state: Path) -> str:
    """Of the resources in a state; empty where it cannot be read."""
    try:
        names = sorted(f"{each['urn']} {each.get('id', '')}" for each in recorded_state.resources(state))
    except (UserError, LookupError, TypeError):
        return ""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
