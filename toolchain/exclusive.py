"""One at a time: what two runs of the tool chain must not do at once is done by one while the other waits."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_LOOK_EVERY = 0.2


class _Sayer(Protocol):
    def say(self, doing: str) -> None: ...


@contextmanager
def exclusive(lock: Path, *, what: str, part: _Sayer) -> Iterator[None]:
    """Hold `lock` for as long as the `with` block runs; wait, and say for whom, while another process holds it.

    The kernel releases it when its holder dies, however it dies: there are no stale locks.

    Args:
        lock: a file; made if absent, removed in the end.
        what: what is done under the lock, for those who wait.
        part: is told what is waited for.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _take(lock, part)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}, {what}".encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _take(lock: Path, part: _Sayer) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            part.say(f"waiting for another run ({holder or 'just starting'})")
            time.sleep(_LOOK_EVERY)
            continue
        # The holder before removed the file that was opened here: the lock on it means nothing any more.
        if _is_at(descriptor, lock):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
