"""Waiting for a lab: it is asked again until nothing is missing, or the deadline is over."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def still_missing(missing: Callable[[], _T], seconds: float, *, every: float = 0.5) -> _T:
    """Ask what is missing until nothing is, and return the last answer.

    Args:
        missing: what is missing; whatever counts as false where nothing is.
        seconds: the deadline, the lab's `timeout_factor` included.
        every: seconds between two questions.
    """
    deadline = time.monotonic() + seconds
    while (left := missing()) and time.monotonic() < deadline:
        time.sleep(every)
    return left
