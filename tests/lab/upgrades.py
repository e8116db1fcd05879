"""Upgrades of a lab from Kubernetes 1.35.8 to 1.36.4, by both bootstrap methods: under load, and killed.

HARDWAY_KILLS says how many of them are killed, HARDWAY_SEED at which moments (others every time; the seed is printed).
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
_IN_A_ROW = 4


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
        assert seen.failed_in_thousand <= 1
    assert_nothing_to_do(stack)


class KilledUpgrades:
    """Upgrades and rollbacks, each killed with all its processes up to four times in a row, and then continued or
    rolled back."""

    def __init__(self, lab: Cluster, show: Show, *, kills: int, seconds: float) -> None:
        """Kill nothing yet.

        Args:
            lab: in either version.
            show: prints how each went.
            kills: how many, unless HARDWAY_KILLS says it.
            seconds: that an upgrade and a rollback take on an idle machine, as a first guess.
        """
        self._kills = int(os.environ.get("HARDWAY_KILLS", kills))
        self._lab = lab
        self._stack = lab.settings.name
        self._show = show
        self._chance = random.Random(SEED)
        self._killer = Killer(chance=self._chance, seconds={"upgrade": seconds / 2, "rollback": seconds / 2})
        self._written: list[str] = []
        self._words: list[str] = []
        self._wanted = ""

    def check(self) -> None:
        """Kill them all, and assert that each ended in a healthy lab of one version, with all that was written."""
        self._show(f"\n{self._kills} kills, HARDWAY_SEED={SEED}\n")
        killed, failures = 0, []
        while killed < self._kills:
            now, problem = self._one(min(_IN_A_ROW, self._kills - killed))
            killed += len(now)
            if problem:
                failures.append(f"kills up to {killed}: {problem}")
                # The next one begins with a lab of one version; what it cannot end is no more worth a try.
                again = upgrade(self._stack, "--continue")
                assert again.code == 0 or upgrade_record.read(self._stack) is None, "\n".join(failures) + again.output
            self._show(f"{killed} of {self._kills} kills, {len(failures)} times not finished, HARDWAY_SEED={SEED}\n")
        assert failures == []
        assert_nothing_to_do(self._stack)

    def _one(self, most: int) -> tuple[list[Killed], str]:
        """An upgrade or a rollback with its kills; and why it did not end as it must, or nothing."""
        kind = "upgrade" if versions(self._stack) == {OLD} else "rollback"
        killed: list[Killed] = []
        problem = ""
        started = time.monotonic()
        try:
            ended = self._killer.kill_in_a_row(
                kind, partial(next, self._runs(kind)), killed.append, most=most, seconds=_SECONDS
            )
            assert ended.code == 0, ended.output
            self._check(ended)
        except Exception as error:
            problem = said(error)
        for each in killed:
            self._show(f"  killed after {each.after:6.1f} s, {each.done:4} done | {each.last[:60]}\n")
        self._show(
            f"{kind} with {len(killed)} kills, then `upgrade {' '.join(self._words)}`, "
            f"{time.monotonic() - started:.1f} s: {problem or f'all of it {self._wanted}'}\n"
        )
        return killed, problem

    def _runs(self, kind: str) -> Iterator[Started]:
        """The first run, and after each kill the one that continues it or returns."""
        if kind == "rollback":
            # As after an upgrade whose last machine has the new version, and that was ended before its record was
            # removed.
            note_unfinished(self._stack)
        yield self._run(*(["--rollback"] if kind == "rollback" else [NEW]))
        while True:
            record = upgrade_record.read(self._stack)
            if record is None:
                # It had not begun, or only its last line was missing.
                yield self._run(*([NEW] if kind == "upgrade" else []))
            elif kind == "rollback" and not record.returning:
                # Killed before it noted that it returns, it is said again.
                yield self._run("--rollback")
            else:
                yield self._run(self._chance.choice(["--continue", "--rollback"]))

    def _run(self, *words: str) -> Started:
        """A run, after a write that the lab has to keep."""
        self._write(f"write-{len(self._written) + 1}")
        record = upgrade_record.read(self._stack)
        self._words = list(words)
        self._wanted = OLD if "--rollback" in words or not words or (record and record.returning) else NEW
        return Started("upgrade", *words, stack=self._stack)

    def _check(self, ended: Ran) -> None:
        assert versions(self._stack) == {self._wanted}
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

    def _write(self, name: str) -> None:
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}

        def is_written() -> bool:
            self._lab.apply(document)
            return True

        eventually("a write", is_written, seconds=60, pause=1)
        self._written.append(name)

    def _status(self) -> Ran:
        return Started("status", stack=self._stack).wait()


def note_unfinished(stack: str) -> None:
    """Note an upgrade from OLD to NEW that is not finished."""
    record = UpgradeRecord(before={"kubernetes": OLD}, after={"kubernetes": NEW}, snapshot="none")
    upgrade_record.write(stack, record)
