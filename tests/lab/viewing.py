"""`hardway view` of a lab of the tests, and a browser that looks at it."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lab import browser
from lab.browser import Tab
from lab.cluster import Cluster
from lab.commands import Started
from lab.polling import eventually

BAR_SECONDS = 1.0
"""Within it a lost leader or unit is shown."""
UNITS = ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "kubelet")
"""Units of whose loss the page is asked."""
_START_SECONDS = 120
_LOOK_EVERY = 0.02


@contextmanager
def viewed(stack: str) -> Iterator[str]:
    """The page's address, while `view` runs; it ends by Ctrl-C, with code 0 and without a word more."""
    running = Started("view", stack=stack)
    try:
        running.says(r"http://127\.0\.0\.1:\d+/", seconds=_START_SECONDS)
        found = re.search(r"http://127\.0\.0\.1:\d+/", running.output)
        assert found
        yield found[0]
        running.interrupt()
        ended = running.wait(seconds=20)
        assert ended.code == 0, ended.output
        assert "Traceback" not in ended.output, ended.output
    finally:
        running.kill_everything()


@contextmanager
def looking(url: str, directory: Path, *, javascript: bool = True) -> Iterator[Tab]:
    """A browser on a page. What it loads comes from there alone, and it has nothing to complain about."""
    with browser.opened(directory) as tab:
        tab.open(url, javascript=javascript)
        yield tab
        assert [each for each in tab.requests if not each.startswith(url)] == []
        assert tab.complaints == []


def seen_after(strike: Callable[[], str], what: str, ask: Callable[[], bool], *, seconds: float) -> float:
    """Seconds until a fault can be seen.

    Args:
        strike: injects it, and returns when, as seconds since the epoch. It may take longer than the fault is seen.
        what: can be seen.
        ask: whether it can; it cannot before.
        seconds: the deadline.
    """
    assert not ask(), f"{what}: seen before"
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(max_workers=1) as threads:
        struck = threads.submit(strike)
        while not ask():
            assert time.monotonic() < end, f"{what}: not seen within {seconds} s"
            time.sleep(_LOOK_EVERY)
        seen = time.time()
        return seen - float(struck.result())


def lose_unit(cluster: Cluster, tab: Tab, unit: str) -> float:
    """Seconds until the page shows that a unit does not run; it runs again afterwards.

    Args:
        cluster: its lab.
        tab: a browser on the page.
        unit: one of `UNITS`, on the first machine that has it.
    """
    machine = (cluster.workers if unit == "kubelet" else cluster.controllers)[0].name
    shown = f"#machine-{machine}"
    eventually("the unit", lambda: f"✔ {unit}" in tab.text(shown), seconds=60)
    # Killed, not ended in order; stopped, so that it does not run again after a second.
    kill = partial(cluster.ssh, machine, f"date +%s.%N; systemctl kill --signal=KILL {unit}; systemctl stop {unit}")
    try:
        return seen_after(kill, f"no {unit}", lambda: f"✖ {unit}" in tab.text(shown), seconds=15)
    finally:
        cluster.ssh(machine, f"systemctl start {unit}")
