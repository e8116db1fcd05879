"""One at a time: what two runs of the tool chain must not do at once is done by one; the other waits, or is refused.

The lock is one of the kernel's (flock): it is released when its holder dies, however it dies. There are no stale locks.
The file says who holds it. It works between root, by sudo, and the user whose cache it is.
"""

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


class HeldError(Exception):
    """Another process holds the lock; the message says which one, and what it does."""


@contextmanager
def exclusive(lock: Path, *, what: str, part: _Sayer) -> Iterator[None]:
    """Hold `lock` for as long as the `with` block runs; wait, and say for whom, while another process holds it.

    Args:
        lock: a file; made if absent, removed in the end.
        what: what is done under the lock, for those who wait.
        part: is told what is waited for.
    """
    while True:
        try:
            descriptor = _take(lock)
            break
        except HeldError as error:
            part.say(f"waiting for another run ({error})")
            time.sleep(_LOOK_EVERY)
    with _held(descriptor, f"process {os.getpid()}, {what}"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def held_or_refused(lock: Path, *, what: str) -> Iterator[None]:
    """Hold `lock` for as long as the `with` block runs.

    Args:
        lock: a file; made if absent. It stays.
        what: what is done under the lock, for those who are refused.

    Raises:
        HeldError: another process holds it.
    """
    with _held(_take(lock), what):
        yield


def holder(lock: Path) -> str:
    """What the process that holds a lock does, by its own words; empty if no process holds it, or it cannot be read.

    By the kernel's list: to try the lock would refuse it to another for a moment.
    """
    try:
        inode = f":{lock.stat().st_ino}"
        # "1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF"
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        if not any("FLOCK" in words and "->" not in words and words[-3].endswith(inode) for words in held):
            return ""
        return lock.read_text(errors="replace")[:200]
    except OSError:
        return ""


@contextmanager
def _held(descriptor: int, what: str) -> Iterator[None]:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, what.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(lock: Path) -> int:
    """The descriptor that holds the lock.

    Raises:
        HeldError: another process does.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            raise HeldError(holder or "just starting") from None
        # The holder before removed the file that was opened here: the lock on it has no effect any more.
        if _is_at(descriptor, lock):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
