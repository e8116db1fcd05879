"""Upgrades of a lab from Kubernetes 1.35.8 to 1.36.4, by both bootstrap methods: under load, and killed.

HARDWAY_KILLS says how many of them are killed, HARDWAY_SEED at which moments (others every time; the seed is printed).
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config import upgrade_record
from config.machines import Role
from config.upgrade_record import UpgradeRecord
from lab import session
from lab.cluster import Cluster
from lab.commands import Ran, Started
from lab.kills import SEED, Killed, Killer, check_whole
from lab.load import BUDGET, Load
from lab.polling import eventually, said
from lab.session import Show
from lab.settings_file import lab_settings
from live import cluster as live_cluster
from live import running_versions
from toolchain import stack as stacks

OLD, NEW = "1.35.8", "1.36.4"
# On two cores an upgrade takes two to six minutes, with the load and other labs beside it up to eleven.
_SECONDS = 20 * 60


@contextmanager
def lab_in_the_old_version(stack: str, show: Show, **changes: Any) -> Iterator[Cluster]:
    """A lab in the version OLD.

    Args:
        stack: of the lab.
        show: prints how it goes.
        changes: further settings.
    """
    with session.empty_stack(stack, show), lab_settings(stack, versions={"kubernetes": OLD}, **changes):
        # Where releases cannot be reached, it builds the version: ten minutes and more.
        done = Started("setup", show=show, stack=stack).wait(60 * 60)
        assert done.code == 0, done.output
        yield session.made(session.settings_of(stack), show)


def upgrade(stack: str, *words: str, show: Show = lambda line: None) -> Ran:
    """Run `upgrade` to its end."""
    return Started("upgrade", *words, show=show, stack=stack).wait(_SECONDS)


def versions(stack: str) -> set[str]:
    """The versions of Kubernetes that the machines of a lab run, once all of their programs say it."""
    found: set[str] = set()

    def all_answer() -> bool:
        running = running_versions.ask(live_cluster.find(stacks.read(stack)))
        found.clear()
        found.update(each.version for each in running if each.product == "kubernetes")
        return running_versions.UNKNOWN not in found

    eventually("all programs saying their version", all_answer, seconds=120, report=lambda: str(found), pause=1)
    return found


def assert_nothing_to_do(stack: str) -> None:
    """Assert that `up` changes nothing."""
    again = Started("up", stack=stack).wait()
    assert again.code == 0 and again.summary.keys() == {"unchanged"}, again.output


def check_upgrade_under_load(lab: Cluster, show: Show, directory: Path) -> None:
    """Assert that an upgrade loses nothing, and with several API servers that clients hardly see it."""
    stack = lab.settings.name
    with Load(lab, directory) as seen:
        started = time.monotonic()
        done = upgrade(stack, NEW, show=show)
        seconds = time.monotonic() - started
    show(f"\nupgrade {OLD} to {NEW}: {seconds:.0f} s; {seen}\n" + "".join(f"  {each}\n" for each in seen.failed))
    assert done.code == 0, done.output
    assert versions(stack) == {NEW}
    assert seen.lost == []
    assert seen.lowest >= BUDGET
    # The only API server of a lab does not answer while it restarts.
    if len(lab.settings.with_role(Role.CONTROLLER)) > 1:
        assert seen.gap <= 2
        assert len(seen.failed) <= seen.requests // 100
    assert_nothing_to_do(stack)


class KilledUpgrades:
    """Upgrades and rollbacks, each killed with all its processes, and then continued or rolled back."""

    def __init__(self, lab: Cluster, show: Show, *, kills: int, seconds: float) -> None:
        """Kill nothing yet.

        Args:
            lab: in either version.
            show: prints how each went.
            kills: how many, unless HARDWAY_KILLS says it.
            seconds: that an upgrade and a rollback take on an idle machine, as a first guess.
        """
        self._kills = int(os.environ.get("HARDWAY_KILLS", kills))
        self._failures: list[str] = []
        self._lab = lab
        self._stack = lab.settings.name
        self._show = show
        self._chance = random.Random(SEED)
        self._killer = Killer(chance=self._chance, seconds={"upgrade": seconds, "rollback": seconds})
        self._written: list[str] = []

    def check(self) -> None:
        """Kill them all, and assert that each ended in a healthy lab of one version, with all that was written."""
        self._show(f"\n{self._kills} kills, HARDWAY_SEED={SEED}\n")
        for number in range(self._kills):
            self._one(number)
        ended = self._kills - len(self._failures)
        self._show(f"{ended} of {self._kills} ended in a lab of one version, HARDWAY_SEED={SEED}\n")
        assert self._failures == []
        assert_nothing_to_do(self._stack)

    def _one(self, number: int) -> None:
        """One that is killed, and the command that ends it."""
        kind = "upgrade" if versions(self._stack) == {OLD} else "rollback"
        self._write(f"kill-{number + 1}")
        killed = self._killer.kill(kind, lambda: self._begin(kind), self._back, whole=True)
        started = time.monotonic()
        words = self._ending(kind)
        wanted = OLD if "--rollback" in words or kind == "rollback" else NEW
        ended = upgrade(self._stack, *words)
        seconds = time.monotonic() - started
        try:
            assert ended.code == 0, ended.output
            assert versions(self._stack) == {wanted}
            assert upgrade_record.read(self._stack) is None
            check_whole(session.settings_of(self._stack), ended)
            eventually(
                "a healthy lab",
                lambda: self._status().code == 0,
                seconds=90,
                report=lambda: self._status().output,
                pause=1,
            )
            there = {item["metadata"]["name"] for item in self._lab.get("configmaps")["items"]}
            assert set(self._written) <= there
        except Exception as error:
            self._report(number, kind, words, killed, seconds, "FAILED")
            self._show(said(error))
            self._failures.append(f"{number + 1}: {kind}, then upgrade {' '.join(words)}")
            # The next one begins with a lab of one version; what it cannot end is no more worth a try.
            again = upgrade(self._stack, "--continue")
            assert again.code == 0 or upgrade_record.read(self._stack) is None, again.output
        else:
            self._report(number, kind, words, killed, seconds, f"all of it {wanted}")

    def _begin(self, kind: str) -> Started:
        if kind == "upgrade":
            return Started("upgrade", NEW, stack=self._stack)
        # As after an upgrade whose last machine has the new version, and that was ended before its record was removed.
        note_unfinished(self._stack)
        return Started("upgrade", "--rollback", stack=self._stack)

    def _back(self) -> None:
        """It was quicker than its kill: have the lab as before."""
        kind = "rollback" if versions(self._stack) == {NEW} else "upgrade"
        done = self._begin(kind).wait(_SECONDS)
        assert done.code == 0, done.output

    def _ending(self, kind: str) -> list[str]:
        record = upgrade_record.read(self._stack)
        if record is None:
            # It had not begun: nothing is to be continued.
            return [NEW] if kind == "upgrade" else []
        if kind == "rollback" and not record.returning:
            # Killed before it noted that it returns, it is said again.
            return ["--rollback"]
        return [self._chance.choice(["--continue", "--rollback"])]

    def _write(self, name: str) -> None:
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}

        def is_written() -> bool:
            self._lab.apply(document)
            return True

        eventually("a write", is_written, seconds=60, pause=1)
        self._written.append(name)

    def _status(self) -> Ran:
        return Started("status", stack=self._stack).wait()

    def _report(self, number: int, kind: str, words: list[str], killed: Killed, seconds: float, end: str) -> None:
        self._show(
            f"{number + 1:3} {kind:9}killed after {killed.after:6.1f} s, {killed.done:4} done; {' '.join(words):10} "
            f"{seconds:6.1f} s  {end}  | {killed.last[:60]}\n"
        )


def note_unfinished(stack: str) -> None:
    """Note an upgrade from OLD to NEW that is not finished."""
    record = UpgradeRecord(before={"kubernetes": OLD}, after={"kubernetes": NEW}, snapshot="none")
    upgrade_record.write(stack, record)
