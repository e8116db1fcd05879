"""What a killed run leaves behind in Pulumi's state: stale locks and pending operations.

A lock of a backend of files names the process that holds it, and stays when that process is killed. A lock
whose process is dead is removed; a lock that may be alive is never broken.

The backend writes the state itself whole or not at all, but not the attributes that it keeps beside it: cut short
by a kill, they make the state unreadable. Nobody needs them, so they are removed.

An operation that was under way is noted in the state, and every later run would warn of it: `pulumi refresh`
clears it. What was being created is not in the state, so the next `up` creates it again.
"""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.errors import ToolchainError
from toolchain.stack import Stack


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One lock file of a backend of files."""

    file: Path
    pid: int
    host: str
    since: str

    @property
    def is_stale(self) -> bool:
        """Whether its process is dead for certain: it was on this host, where no `pulumi` has its pid."""
        if self.host != socket.gethostname():
            return False
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        # pid (name) state ...: one that its parent has not buried yet is dead nevertheless.
        name, _, rest = stat.partition("(")[2].rpartition(")")
        return name != "pulumi" or rest.split()[0] in ("Z", "X")


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
    locks = _locks(directory, stack)
    if alive := [lock for lock in locks if not lock.is_stale]:
        raise ToolchainError(_at_work(stack, alive[0]))
    for lock in locks:
        lock.file.unlink(missing_ok=True)
        lock.file.with_name(f"{lock.file.name}.attrs").unlink(missing_ok=True)
    return locks


def drop_torn_attributes(directory: Path | None, stack: Stack) -> None:
    """Remove what a killed process has left half written beside the state. Only where nobody is at work.

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


def recorded(directory: Path | None, stack: Stack) -> Mapping[str, Any]:
    """The state as a backend of files has it, its secrets encrypted; empty where only the CLI can tell.

    Args:
        directory: of the backend; None where it is no directory.
        stack: whose state.
    """
    if directory is None:
        return {}
    try:
        content = json.loads((directory / ".pulumi" / "stacks" / stack.project / f"{stack.name}.json").read_text())
        latest = content["checkpoint"]["latest"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return latest if isinstance(latest, dict) else {}


def pending_operations(deployment: Mapping[str, Any]) -> list[str]:
    """What was under way when a run was killed, e.g. "creating machine-1", by `pulumi stack export`."""
    pending = (deployment.get("deployment") or {}).get("pending_operations") or []
    return [f"{operation['type']} {operation['resource']['urn'].rpartition('::')[2]}" for operation in pending]


def _locks(directory: Path, stack: Stack) -> list[Lock]:
    locks = []
    place = directory / ".pulumi" / "locks" / "organization" / stack.project / stack.name
    for file in sorted(place.glob("*.json")):
        try:
            content = json.loads(file.read_text())
        except FileNotFoundError:
            continue
        except ValueError:
            content = {}
        locks.append(
            Lock(
                file=file,
                # A file that was cut short is nobody's for certain: report it as one that may be alive.
                pid=int(content.get("pid", 0)),
                host=str(content.get("hostname", "unknown")),
                since=str(content.get("timestamp", "unknown"))[:19],
            )
        )
    return locks


def _at_work(stack: Stack, lock: Lock) -> str:
    return (
        f"Another pulumi is at work on the stack {stack.name}: process {lock.pid} on {lock.host}, "
        f"since {lock.since} UTC. Nothing was touched.\n"
        "Wait for it, or interrupt it (Ctrl-C in its terminal, or "
        f"`kill -INT {lock.pid}`), then run this again.\n"
        f"If you are certain that there is no such process: `pulumi cancel --stack {stack.name}`."
    )
