"""What is asked of every lesson on a running lab: three ways, and a lab as before at the end."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.polling import eventually
from live import cluster as live_cluster
from live import lessons, status
from live.drift import run as drifts
from live.lessons.lesson import find, read_all
from toolchain import operations, stack

_STAYS_WRONG_SECONDS, _QUICK_SECONDS = 8, 1
_RESET_SECONDS = 10
"""The bar of a reset on a machine that has nothing else to do; printed, and asserted with a margin for other load."""
_MARGIN = 6


@dataclass(frozen=True, kw_only=True)
class Took:
    """Seconds of each part."""

    start: float
    solve: float
    reset: float


def check_three_ways(stack_name: str, name: str, show: Callable[[str], None], *, thorough: bool = True) -> Took:
    """The fault fails the check, a plausible wrong fix does too, the reference solution passes; then a reset.

    Args:
        stack_name: of a lab that is healthy.
        name: of the lesson.
        show: takes a line of progress.
        thorough: whether a wrong fix is watched for seconds, and the whole lab is compared and judged once more after
            the reset, which has done so itself.
    """
    stays_wrong = _STAYS_WRONG_SECONDS if thorough else _QUICK_SECONDS
    lab, lesson = stack.read(stack_name), find(name, read_all())
    began = time.monotonic()
    lessons.start(lab, name)
    started = time.monotonic()
    try:
        assert lessons.check(lab, within=stays_wrong / 2) == 1, "the fault does not fail the check"
        with operations.without_pulumi(lab, "a test of lessons"):
            lessons.apply_fix(live_cluster.find(lab), lesson.wrong)
        assert lessons.check(lab, within=stays_wrong) == 1, "the wrong fix passes"
        solving = time.monotonic()
        assert lessons.solve(lab, apply=True) == 0, "the reference solution does not pass"
        solved = time.monotonic()
    finally:
        resetting = time.monotonic()
        lessons.reset(lab)
        reset = time.monotonic()
    took = Took(start=started - began, solve=solved - solving, reset=reset - resetting)
    show(f"lesson {name}: start {took.start:.1f} s, solve {took.solve:.1f} s, reset {took.reset:.1f} s\n")
    assert took.reset < _RESET_SECONDS * _MARGIN
    cluster = live_cluster.find(lab)
    if thorough:
        found = drifts.find(lab)
        assert found.exit_code == drifts.NONE, found
        eventually("a healthy lab", lambda: not status.gather(cluster).problems, seconds=60)
    left = cluster.kubectl("get", "namespace", "lesson", "--ignore-not-found", "-o", "name")
    assert (left.returncode, left.stdout) == (0, "")
    return took
