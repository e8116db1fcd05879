"""Pulumi's own lock of a stack, held by a command that changes the lab without Pulumi: restore, drill.

Every `pulumi` that changes a stack in a backend of files writes a lock file before, and refuses where it finds
another's. A command that writes one by the same rules keeps plain `pulumi up`, `destroy`, `refresh` and `import` out,
from whatever directory, user or host they use the backend. (`pulumi preview` changes nothing and takes no lock.)

A lock that a killed command has left is removed by the next run of this project (`recovery.py`); plain `pulumi` refuses
until then, as it does after a killed `pulumi`.

Source: pkg/backend/diy/lock.go of Pulumi 3: `.pulumi/locks/organization/PROJECT/STACK/ID.json`, with pid, username,
hostname and timestamp. The order is: look for others, write, look again; who sees another withdraws.
"""

import json
import os
import pwd
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from config.whole_file import write_whole
from toolchain.errors import ToolchainError
from toolchain.holder import Holder
from toolchain.recovery import Lock, at_work, clear_stale_locks, lock_directory, locks_of
from toolchain.stack import Stack


@contextmanager
def held(directory: Path, stack: Stack, command: str) -> Iterator[None]:
    """Hold Pulumi's lock of a stack for as long as the `with` block runs.

    Args:
        directory: of the backend of files.
        stack: whose lock.
        command: as the user gave it, for those who find the lock.

    Raises:
        ToolchainError: another process holds the lock.
    """
    report_removed(clear_stale_locks(directory, stack))
    file = lock_directory(directory, stack) / f"{uuid.uuid4()}.json"
    _write(directory, file, command)
    try:
        # Another may have written its own since the first look. Both see both, and both go back.
        for lock in locks_of(directory, stack):
            if lock.file != file and not lock.is_stale:
                raise ToolchainError(at_work(stack, lock))
        yield
    finally:
        file.unlink(missing_ok=True)


def report_removed(locks: Sequence[Lock]) -> None:
    """Tell the user which locks of killed runs were removed."""
    for lock in locks:
        what = f"{lock.holder.command}, " if lock.holder else ""
        print(
            f"Removed the lock of a run that was killed ({what}process {lock.pid}, since {lock.since} UTC).", flush=True
        )


def _write(directory: Path, file: Path, command: str) -> None:
    """Write a lock whole or not at all. The draft is elsewhere: Pulumi takes every file in the directory for a lock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "username": _user(),
        "hostname": socket.gethostname(),
        "timestamp": datetime.now(UTC).isoformat(),
        **Holder.this_process(command).written(),
    }
    # Others may read who holds it; there is no secret in it.
    write_whole(file, json.dumps(content), mode=0o644, draft_in=directory / ".pulumi")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
