"""The last lines of programs' logs, for a report of what is not healthy: the report says what, the log says why."""

import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from live.cluster import Cluster, LiveMachine
from live.programs import program

_SECONDS = 20


@dataclass(frozen=True)
class Logged:
    """Where the log of a program is.

    Args:
        machine: on which.
        program: its name, as `program` takes it.
    """

    machine: LiveMachine
    program: str


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong.

    Args:
        text: a sentence.
        logged: whose logs say more.
    """

    text: str
    logged: tuple[Logged, ...] = ()


def report(cluster: Cluster, complaints: Iterable[Complaint]) -> str:
    """All that is wrong, and behind it the last lines of each log that says more, each log once."""
    found = list(complaints)
    text = "\n  ".join(dict.fromkeys(each.text for each in found))
    logs = last_lines(cluster, [logged for each in found for logged in each.logged])
    return f"\n  {text}{logs}"


def last_lines(cluster: Cluster, logged: Iterable[Logged]) -> str:
    """The last lines of logs, each on lines of its own with a heading; why there are none where they cannot be read."""
    each_once = list(dict.fromkeys(logged))
    if not each_once:
        return ""
    with ThreadPoolExecutor(max_workers=len(each_once)) as threads:
        found = threads.map(lambda one: _read(cluster, one), each_once)
        return "".join(
            f"\n  last lines of {one.program} on {one.machine.name}:" + "".join(f"\n    {line}" for line in lines)
            for one, lines in zip(each_once, found, strict=True)
        )


def _read(cluster: Cluster, logged: Logged) -> list[str]:
    try:
        done = cluster.ssh(logged.machine, program(cluster, logged.program).log(), seconds=_SECONDS)
    except subprocess.TimeoutExpired as late:
        return [f"(not read: no answer within {late.timeout:.0f} s)"]
    if done.returncode != 0:
        return [f"(not read: {done.stderr.strip() or f'exit status {done.returncode}'})"]
    return done.stdout.splitlines() or ["(no lines)"]
