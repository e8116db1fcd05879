"""`upgrade` of a lab that serves: from Kubernetes 1.35.8 to 1.36.4, under load, and killed at random moments.

HARDWAY_KILLS says how many kills (20), HARDWAY_SEED which moments (others every time; the seed is printed).
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import upgrade_record
from config.upgrade_record import UpgradeRecord
from lab import session
from lab.cluster import Cluster
from lab.commands import Ran, Started
from lab.load import BUDGET, Load
from lab.polling import eventually, said
from lab.session import Show
from lab.settings_file import lab_settings
from labs.ha.conftest import STACK
from labs.ha.kills import SEED, Killed, Killer, check_whole
from live import cluster as live_cluster
from live import running_versions
from toolchain import stack as stacks

pytestmark = pytest.mark.long

OLD, NEW = "1.35.8", "1.36.4"
KILLS = int(os.environ.get("HARDWAY_KILLS", "20"))
# An upgrade of this lab takes two to four minutes on two cores, without the load.
_MINUTES = 15 * 60


@pytest.fixture(scope="module")
def old_lab(show: Show) -> Iterator[Cluster]:
    """The lab in the old version."""
    with session.empty_stack(STACK, show), lab_settings(STACK, versions={"kubernetes": OLD}):
        # Where releases cannot be reached, it builds the version: ten minutes and more.
        done = _start("setup", show=show).wait(60 * 60)
        assert done.code == 0, done.output
        yield session.made(session.settings_of(STACK), show)


def test_an_upgrade_under_load_loses_nothing(old_lab: Cluster, show: Show, tmp_path: Path) -> None:
    """What it would catch: two API servers that restart at once, a worker that is not drained, a budget overridden."""
    with Load(old_lab, tmp_path) as seen:
        started = time.monotonic()
        done = _start("upgrade", NEW, show=show).wait(_MINUTES)
        seconds = time.monotonic() - started
    show(f"\nupgrade {OLD} to {NEW}: {seconds:.0f} s; {seen}\n" + "".join(f"  {each}\n" for each in seen.failed))
    assert done.code == 0, done.output
    assert _versions() == {NEW}
    assert seen.lost == []
    assert seen.lowest >= BUDGET
    assert seen.gap <= 2
    assert len(seen.failed) <= seen.requests // 100
    again = _start("up").wait()
    assert again.code == 0 and again.summary.keys() == {"unchanged"}, again.output


def test_every_upgrade_that_was_killed_is_continued_or_rolled_back(old_lab: Cluster, show: Show) -> None:
    """An upgrade after whose kill the lab needs a hand, runs two versions, or has lost a write."""
    runs = KilledUpgrades(old_lab, show)
    show(f"\n{KILLS} kills, HARDWAY_SEED={SEED}\n")
    for number in range(KILLS):
        runs.one(number)
    show(f"{KILLS - len(runs.failures)} of {KILLS} ended in a lab of one version, HARDWAY_SEED={SEED}\n")
    assert runs.failures == []
    again = _start("up").wait()
    assert again.code == 0 and again.summary.keys() == {"unchanged"}, again.output


class KilledUpgrades:
    """Upgrades and rollbacks, each killed with all its processes, and then continued or rolled back."""

    def __init__(self, cluster: Cluster, show: Show) -> None:
        self.failures: list[str] = []
        self._cluster = cluster
        self._show = show
        self._chance = random.Random(SEED)
        self._killer = Killer(chance=self._chance, seconds={"upgrade": 120.0, "rollback": 120.0})
        self._written: list[str] = []

    def one(self, number: int) -> None:
        """One that is killed, and the command that ends it."""
        runs = _versions()
        kind = "upgrade" if runs == {OLD} else "rollback"
        self._write(f"kill-{number + 1}")
        killed = self._killer.kill(kind, lambda: self._begin(kind), self._back, whole=True)
        started = time.monotonic()
        words = self._ending(kind)
        wanted = OLD if "--rollback" in words or kind == "rollback" else NEW
        ended = _start(*words).wait(_MINUTES)
        seconds = time.monotonic() - started
        try:
            assert ended.code == 0, ended.output
            assert _versions() == {wanted}
            assert upgrade_record.read(STACK) is None
            check_whole(session.settings_of(STACK), ended)
            eventually(
                "a healthy lab", lambda: _status().code == 0, seconds=90, report=lambda: _status().output, pause=1
            )
            there = {item["metadata"]["name"] for item in self._cluster.get("configmaps")["items"]}
            assert set(self._written) <= there
        except Exception as error:
            self._report(number, kind, words, killed, seconds, "FAILED")
            self._show(said(error))
            self.failures.append(f"{number + 1}: {kind}, then {' '.join(words)}")
            # The next one begins with a lab of one version; what it cannot end is no more worth a try.
            again = _start("upgrade", "--continue").wait(_MINUTES)
            assert again.code == 0 or upgrade_record.read(STACK) is None, again.output
        else:
            self._report(number, kind, words, killed, seconds, f"all of it {wanted}")

    def _begin(self, kind: str) -> Started:
        if kind == "upgrade":
            return _start("upgrade", NEW)
        # As after an upgrade whose last machine has the new version, and that was ended before its record was removed.
        upgrade_record.write(
            STACK, UpgradeRecord(before={"kubernetes": OLD}, after={"kubernetes": NEW}, snapshot="none")
        )
        return _start("upgrade", "--rollback")

    def _back(self) -> None:
        """It was quicker than its kill: have the lab as before."""
        returning = _versions() == {NEW}
        done = (self._begin("rollback") if returning else _start("upgrade", NEW)).wait(_MINUTES)
        assert done.code == 0, done.output

    def _ending(self, kind: str) -> list[str]:
        if upgrade_record.read(STACK) is None:
            # It had not begun: nothing is to be continued.
            return ["upgrade", NEW] if kind == "upgrade" else ["upgrade"]
        if kind == "rollback":
            # Killed before it noted that it returns, it is said again.
            return ["upgrade", self._chance.choice(["--continue", "--rollback"]) if self._returns() else "--rollback"]
        return ["upgrade", self._chance.choice(["--continue", "--rollback"])]

    def _returns(self) -> bool:
        record = upgrade_record.read(STACK)
        return record is not None and record.returning

    def _write(self, name: str) -> None:
        self._cluster.kubectl("create", "configmap", name)
        self._written.append(name)

    def _report(self, number: int, kind: str, words: list[str], killed: Killed, seconds: float, end: str) -> None:
        self._show(
            f"{number + 1:3} {kind:9}killed after {killed.after:6.1f} s, {killed.done:4} done; {' '.join(words):20} "
            f"{seconds:6.1f} s  {end}  | {killed.last[:60]}\n"
        )


def _versions() -> set[str]:
    """The versions of Kubernetes that the machines run."""
    running = running_versions.ask(live_cluster.find(stacks.read(STACK)))
    return {each.version for each in running if each.product == "kubernetes"}


def _start(*words: str, show: Show = lambda line: None) -> Started:
    return Started(*words, show=show, stack=STACK)


def _status() -> Ran:
    return _start("status").wait()
