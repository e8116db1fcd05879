"""Waiting for a condition: asked again and again until a deadline, and told why it did not come."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_PAUSE = 0.2
_NOT_YET = (AssertionError, OSError, subprocess.SubprocessError)


def eventually(
    what: str, ask: Callable[[], _T], *, seconds: float, report: Callable[[], str] = lambda: "", pause: float = _PAUSE
) -> _T:
    """Ask until the answer is true, and return it.

    Args:
        what: is waited for, for the message.
        ask: its answer counts when it is true; a failed assertion, request or command means: not yet.
        seconds: the deadline.
        report: what to show when the deadline has passed.
        pause: seconds between two tries.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
            last = f"the last answer was {answer!r}"
            if answer:
                return answer
        except _NOT_YET as error:
            last = f"the last try failed: {said(error)}"
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s; {last}\n{report()}"
        time.sleep(pause)


def said(error: BaseException) -> str:
    """What an error says, with the output of a command that failed."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error}\n{error.stdout or ''}{error.stderr or ''}"
    return str(error) or repr(error)
