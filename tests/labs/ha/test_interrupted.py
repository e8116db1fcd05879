"""kill -9 of commands at random moments: the next run of the same finishes, with nothing repaired by hand.

HARDWAY_KILLS says how many kills (40), HARDWAY_SEED which moments (others every time; the seed is printed). Every run
kills the `up` and the `destroy` of the lab that all tests share (test_killed_up, test_destroy).
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import session
from lab.cluster import Cluster
from lab.commands import Ran, Started
from lab.kills import LARGER, SEED, SMALLER, Killed, Killer, check_whole
from lab.polling import eventually, said
from lab.session import Show
from lab.settings_file import lab_settings
from labs.ha.conftest import STACK

KILLS = int(os.environ.get("HARDWAY_KILLS", "40"))


@pytest.fixture(autouse=True)
def empty_stack(show: Show) -> Iterator[None]:
    """No lab before, no lab after."""
    with session.empty_stack(STACK, show):
        yield


@pytest.mark.long
def test_every_killed_run_ends_in_a_healthy_lab_by_the_next(show: Show, tmp_path: Path) -> None:
    """An up, a scaling, a replacement or a restore after whose kill the lab needs a hand, or has lost a write."""
    runs, kills = KilledRuns(show, tmp_path), KILLS
    show(f"\n{kills} kills, HARDWAY_SEED={SEED}\n")
    for number in range(kills):
        runs.one(number)
    show(f"{kills - len(runs.failures)} of {kills} ended in a healthy lab by the next run, HARDWAY_SEED={SEED}\n")
    assert runs.failures == []


class KilledRuns:
    """Up, scale, replace, restore and again, each killed with all its processes, and run once more."""

    def __init__(self, show: Show, directory: Path) -> None:
        self.failures: list[str] = []
        self._show = show
        self._directory = directory
        self._killer = Killer(chance=random.Random(SEED))
        self._size = SMALLER
        # What was written last, and acknowledged.
        self._written = ""

    def one(self, number: int) -> None:
        """A command that is killed, and the next run of it."""
        kind = ("up", "scale", "replace", "restore")[number % 4]
        # Before the kill, as after it: a lab as the kind wants it.
        words = self._prepare(kind, number)
        with lab_settings(STACK, **self._size):
            killed = self._killer.kill(kind, lambda: _start(*words), lambda: self._prepare_again(kind), whole=True)
            started = time.monotonic()
            finished = _start(*words).wait()
            seconds = time.monotonic() - started
            try:
                assert finished.code == 0, finished.output
                cluster = check_whole(session.settings_of(STACK), finished)
                eventually(
                    "a healthy lab", lambda: _status().code == 0, seconds=90, report=lambda: _status().output, pause=1
                )
                self._read_and_write(cluster, number)
            except Exception as error:
                self._report(number, kind, words, killed, seconds, "FAILED")
                self._show(said(error))
                self.failures.append(f"{number + 1}: {' '.join(words)}")
                self._begin_again(number)
            else:
                healthy = time.monotonic() - started
                self._report(number, kind, words, killed, seconds, f"healthy after {healthy:.1f} s")

    def _prepare(self, kind: str, number: int) -> list[str]:
        """Have the lab as a kind wants it before; return the command."""
        chance = self._killer.chance
        match kind:
            case "up":
                with lab_settings(STACK, **self._size):
                    _run("destroy")
                self._size, self._written = chance.choice([SMALLER, LARGER]), ""
                return ["up"]
            case "scale":
                self._size = LARGER if self._size == SMALLER else SMALLER
                return ["up"]
            case "replace":
                with lab_settings(STACK, **self._size):
                    machines = [each.name for each in session.settings_of(STACK).machines]
                return ["replace", chance.choice(machines)]
            case _:
                # A snapshot never replaces another file.
                snapshot = str(self._directory / f"lab-{number}.db")
                with lab_settings(STACK, **self._size):
                    _run("snapshot", snapshot)
                return ["restore", snapshot]

    def _prepare_again(self, kind: str) -> None:
        """The command was quicker than its kill: have the lab as before."""
        if kind == "up":
            _run("destroy")
        elif kind == "scale":
            with lab_settings(STACK, **(LARGER if self._size == SMALLER else SMALLER)):
                _run("up")

    def _read_and_write(self, cluster: Cluster, number: int) -> None:
        """Nothing is lost that was written before, and the lab takes a write."""
        if self._written:
            assert cluster.get("configmap", self._written)["data"] == {"kept": self._written}
        self._written = f"kill-{number + 1}"
        cluster.kubectl("create", "configmap", self._written, f"--from-literal=kept={self._written}")
        assert cluster.get("configmap", self._written)["data"] == {"kept": self._written}

    def _begin_again(self, number: int) -> None:
        _run("destroy")
        _run("up")
        self._written = ""

    def _report(self, number: int, kind: str, words: list[str], killed: Killed, seconds: float, end: str) -> None:
        what = f"{kind} {words[1]}" if kind == "replace" else kind
        size = f"{self._size['controllers']}+{self._size['workers']}"
        self._show(
            f"{number + 1:3} {what:25} {size} {killed.after:6.1f} s {killed.done:4} done  "
            f"next run {seconds:6.1f} s  {end}  | {killed.last[:60]}\n"
        )


def _start(*words: str) -> Started:
    return Started(*words, stack=STACK)


def _run(*words: str) -> None:
    done = _start(*words).wait()
    assert done.code == 0, done.output


def _status() -> Ran:
    return _start("status").wait()
