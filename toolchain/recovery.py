"""What a killed run leaves behind in Pulumi's state: stale locks and pending operations.

A lock of a backend of files names the process that holds it, and stays when that process is killed. A lock
whose process is dead is removed; a lock that may be alive is never broken. Commands of this project that change a lab
without Pulumi hold such a lock, too (`stack_lock.py`).

When the host loses its power, a file of the state may end with NUL bytes: its length was written, and its last blocks
were not, or the file system has filled them. Where all of its JSON stands before them, they are removed.

The backend writes the state itself whole or not at all, but not the attributes that it keeps beside it: cut short
by a kill, they make the state unreadable. They are not needed, so they are removed.

An operation that was under way is noted in the state, and every later run would warn of it: `pulumi refresh`
clears it. What was being created is not in the state, so the next `up` creates it again.
"""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.whole_file import write_whole
from toolchain.errors import ToolchainError
from toolchain.holder import Holder, is_running
from toolchain.stack import Stack


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One lock file of a backend of files.

    Args:
        file: its path.
        pid, user, host, since: what it says of the process that holds it.
        holder: that process, where it is a command of this project; None for a `pulumi`.
    """

    file: Path
    pid: int
    user: str
    host: str
    since: str
    holder: Holder | None = None

    @property
    def is_stale(self) -> bool:
        """Whether its process is dead for certain; one on another host never is."""
        if self.host != socket.gethostname():
            return False
        if self.holder is not None:
            return self.holder.is_dead
        # What a `pulumi` writes has its pid alone.
        return not is_running(self.pid, name="pulumi")

    @property
    def command(self) -> str:
        """What holds it."""
        return self.holder.command if self.holder else "pulumi"

    def remove(self) -> None:
        """Remove its file, and the attributes that the backend may keep beside it."""
        self.file.unlink(missing_ok=True)
        self.file.with_name(f"{self.file.name}.attrs").unlink(missing_ok=True)


def clear_stale_locks(directory: Path | None, stack: Stack) -> list[Lock]:
    """Remove the locks that killed processes have left on a stack.

    Args:
        directory: of the backend; None where it is no directory, and the backend's own rules hold.
        stack: whose locks.

    Returns:
        The locks that were removed.

    Raises:
        ToolchainError: another process is at work on the stack.
    """
    if directory is None:
        return []
    locks = locks_of(directory, stack)
    if alive := [lock for lock in locks if not lock.is_stale]:
        raise ToolchainError(at_work(stack, alive[0]))
    for lock in locks:
        lock.remove()
    return locks


def drop_torn_attributes(directory: Path | None, stack: Stack) -> None:
    """Remove what a killed process has left half written beside the state. Only while no run is at work.

    Args:
        directory: of the backend; None where it is no directory.
        stack: whose state.
    """
    if directory is None:
        return
    place = directory / ".pulumi" / "stacks" / stack.project
    for draft in place.glob(f"{stack.name}.json*.tmp"):
        draft.unlink(missing_ok=True)
    for attributes in place.glob(f"{stack.name}.json*.attrs"):
        try:
            json.loads(attributes.read_text())
        except ValueError:
            attributes.unlink(missing_ok=True)


def repair_torn_state(directory: Path | None, stack: Stack) -> Path | None:
    """Remove NUL bytes behind the JSON of a state. Only while no run is at work.

    Args:
        directory: of the backend; None where it is no directory.
        stack: whose state.

    Returns:
        The file, where it was repaired.

    Raises:
        ToolchainError: the state is not whole; which copy is.
    """
    if directory is None:
        return None
    file = state_file(directory, stack)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    whole = content.rstrip(b"\0")
    if not _is_json(whole):
        raise ToolchainError(_torn(stack, file))
    if whole == content:
        return None
    owner = file.stat()
    # The draft's name begins with a dot: the backend and `drop_torn_attributes` pass it over.
    write_whole(file, whole, mode=owner.st_mode & 0o777, owner=(owner.st_uid, owner.st_gid), sync=True)
    return file


def _torn(stack: Stack, file: Path) -> str:
    copies = [file.with_name(f"{file.name}.bak")]
    backups = file.parents[2] / "backups" / stack.project / stack.name
    copies += sorted(backups.glob("*.json"), reverse=True)
    good = next((copy for copy in copies if copy.exists() and _is_json(copy.read_bytes().rstrip(b"\0"))), None)
    what = f"The state of the stack {stack.name} is damaged: {file} is not whole JSON. Nothing was changed.\n"
    if good is None:
        return f"{what}There is no whole copy of it beside it: restore {file} from a backup of yours."
    return (
        f"{what}The last state that is whole is {good}. It may lack what the last run made before it was cut short;\n"
        f"the next `./hardway up -s {stack.name}` makes that again. To use it:\n"
        f"  cp -p '{file}' '{file}.damaged' && cp -p '{good}' '{file}'"
    )


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def recorded(directory: Path | None, stack: Stack) -> Mapping[str, Any]:
    """The state as a backend of files has it, its secrets encrypted; empty where only the CLI can tell.

    Args:
        directory: of the backend; None where it is no directory.
        stack: whose state.
    """
    if directory is None:
        return {}
    try:
        content = json.loads(state_file(directory, stack).read_text())
        latest = content["checkpoint"]["latest"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return latest if isinstance(latest, dict) else {}


def is_absent(directory: Path | None, stack: Stack) -> bool:
    """Whether a backend of files has no stack of this name for certain; where that is not sure, the CLI tells.

    Args:
        directory: of the backend; None where it is no directory.
        stack: which.
    """
    # Also compressed, and in the layout of early versions, without the project.
    return directory is not None and not any((directory / ".pulumi" / "stacks").rglob(f"{stack.name}.json*"))


def pending_operations(deployment: Mapping[str, Any]) -> list[str]:
    """What was under way when a run was killed, e.g. "creating machine-1", by `pulumi stack export`."""
    pending = (deployment.get("deployment") or {}).get("pending_operations") or []
    return [f"{operation['type']} {operation['resource']['urn'].rpartition('::')[2]}" for operation in pending]


def state_file(directory: Path, stack: Stack) -> Path:
    """Where a backend of files has the state of a stack."""
    return directory / ".pulumi" / "stacks" / stack.project / f"{stack.name}.json"


def lock_directory(directory: Path, stack: Stack) -> Path:
    """Where a backend of files has the locks of a stack."""
    return directory / ".pulumi" / "locks" / "organization" / stack.project / stack.name


def locks_of(directory: Path, stack: Stack) -> list[Lock]:
    """The locks of a stack in a backend of files."""
    locks = []
    for file in sorted(lock_directory(directory, stack).glob("*.json")):
        try:
            content = json.loads(file.read_text())
        except FileNotFoundError:
            continue
        except ValueError:
            content = None
        # A damaged file names no process for certain: report it as one that may be alive.
        said: Mapping[str, Any] = content if isinstance(content, dict) else {}
        pid = said.get("pid")
        complete = isinstance(pid, int) and pid > 0
        locks.append(
            Lock(
                file=file,
                pid=pid if isinstance(pid, int) else 0,
                user=str(said.get("username", "unknown")),
                host=str(said.get("hostname", "unknown")) if complete else "unknown",
                since=str(said.get("timestamp", "unknown"))[:19],
                holder=Holder.read(said),
            )
        )
    return locks


def at_work(stack: Stack, lock: Lock) -> str:
    """The message for a run that finds a lock which may be alive."""
    return (
        f"Another {lock.command} is at work on the stack {stack.name}: process {lock.pid} on {lock.host}, "
        f"since {lock.since} UTC, started by {lock.user}. Nothing was changed.\n"
        "Wait for it, or interrupt it (Ctrl-C in its terminal, or "
        f"`kill -INT {lock.pid}` on {lock.host}), then run this again.\n"
        f"If you are certain that there is no such process: `pulumi cancel --stack {stack.name}`."
    )
