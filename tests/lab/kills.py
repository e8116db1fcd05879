"""kill -9 of a command at a random moment, and what the next run of it has to leave: a lab that is whole.

HARDWAY_SEED says which moments (others every time; the seed is printed).
"""

import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from config import lab as config
from lab import footprint
from lab.cluster import Cluster
from lab.commands import Ran, Started, exported
from lab.polling import eventually
from lab.session import Show

SEED = int(os.environ.get("HARDWAY_SEED", str(random.SystemRandom().randrange(10**6))))
SMALLER, LARGER = {"controllers": 3, "workers": 2}, {"controllers": 5, "workers": 3}


@dataclass(frozen=True, kw_only=True)
class Killed:
    """A run that was killed.

    Args:
        whole: whether all its processes were, or the Pulumi CLI alone.
        after: seconds.
        done: the resources that it had made, changed or deleted.
        last: its last line.
    """

    whole: bool
    after: float
    done: int
    last: str

    def __str__(self) -> str:
        what = "all of it" if self.whole else "its engine"
        return f"{what} after {self.after:.1f} s, {self.done} resources done"


@dataclass(kw_only=True)
class Killer:
    """Kills commands at random moments.

    Args:
        chance: which moments.
        seconds: of one run of each kind, on an idle machine: a first guess, replaced by what the runs took.
    """

    chance: random.Random
    seconds: dict[str, float] = field(
        default_factory=lambda: {"up": 30.0, "scale": 40.0, "destroy": 6.0, "replace": 35.0, "restore": 25.0}
    )

    def kill(
        self, kind: str, start: Callable[[], Started], before: Callable[[], None], *, whole: bool | None = None
    ) -> Killed:
        """Start a command and kill it before it has ended.

        Args:
            kind: of the command.
            start: starts it.
            before: brings the lab back to where it was, if the command was quicker.
            whole: kill all its processes; False for the Pulumi CLI alone, None for either.
        """
        while True:
            after = self.chance.uniform(0.3, self.seconds[kind])
            everything = self.chance.random() < 0.5 if whole is None else whole
            started = time.monotonic()
            run = start()
            if _is_at_work(run, after):
                # Before it has an engine there is nothing else to kill.
                everything = everything or not run.kill_cli()
                if everything:
                    run.kill_everything()
            if run.wait().code != 0:
                return _killed(run, whole=everything, after=after)
            # It was quicker than thought: choose from a shorter time.
            self.seconds[kind] = (time.monotonic() - started) * 0.9
            before()

    def kill_in_a_row(
        self, kind: str, start: Callable[[], Started], killed: Callable[[Killed], None], *, most: int, seconds: float
    ) -> Ran:
        """Start a command, kill it with all its processes, and start it again, until one ends before its kill.

        So a kill meets what the kills before it have left, and their moments are spread over the whole command.

        Args:
            kind: of the command. Half of what all its runs took is the longest time until a kill of the next ones.
            start: starts it; after a kill the command that continues it.
            killed: gets each kill.
            most: kills; the run after them may end.
            seconds: that the last run may take.

        Returns:
            How the last run ended.
        """
        started = time.monotonic()
        for number in count():
            after = self.chance.uniform(0.3, self.seconds[kind])
            run = start()
            was_killed = number < most and _is_at_work(run, after)
            if was_killed:
                run.kill_everything()
            ended = run.wait(seconds)
            # One that was just ending has ended.
            if not was_killed or ended.code == 0:
                self.seconds[kind] = (time.monotonic() - started) / 2
                return ended
            killed(_killed(run, whole=True, after=after))
        raise AssertionError("unreachable")

    def kill_and_finish(self, kind: str, command: str, before: Callable[[], Ran], *, stack: str, show: Show) -> Ran:
        """Kill a command, and run it again, with nothing repaired by hand.

        Args:
            kind: of the command.
            command: `up` or `destroy`.
            before: brings the lab back to where it was, if the command was quicker than its kill.
            stack: of the lab.
            show: prints how it went.
        """

        def back() -> None:
            ran = before()
            assert ran.code == 0, ran.output

        killed = self.kill(kind, lambda: Started(command, stack=stack), back)
        started = time.monotonic()
        finished = Started(command, stack=stack).wait()
        show(f"\nkill of {kind}: {killed}; the next finished in {time.monotonic() - started:.1f} s\n")
        assert finished.code == 0, finished.output
        return finished


def _is_at_work(run: Started, after: float) -> bool:
    """Whether a command is still at work so many seconds from now; known earlier if it has ended."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline and run.is_at_work:
        time.sleep(0.05)
    return run.is_at_work


def _killed(run: Started, *, whole: bool, after: float) -> Killed:
    done = sum(bool(re.search(r" (created|updated|deleted) \(", line)) for line in run.lines)
    last = next((line.strip() for line in reversed(run.lines) if line.strip()), "")
    return Killed(whole=whole, after=after, done=done, last=last)


def check_gone(settings: config.Lab) -> None:
    """Assert that nothing is left of a lab."""
    assert '"pending_operations"' not in exported(stack=settings.name)
    eventually(
        "a host without any trace of the lab",
        lambda: not any(footprint.of_lab(settings).values()),
        seconds=30,
        report=lambda: str(footprint.of_lab(settings)),
    )


def check_whole(settings: config.Lab, finished: Ran) -> Cluster:
    """Assert that a lab has all that it is to have, once; return it."""
    assert '"pending_operations"' not in exported(stack=settings.name)
    cluster = Cluster(settings=settings, up=finished, command_lines=frozenset())
    names = sorted(machine.name for machine in settings.machines)
    assert footprint.named(f"hardway-{settings.name}", "ps", "--format", "{{.Names}}") == [
        f"hardway-{settings.name}-{n}" for n in names
    ]
    members = [line.split(", ") for line in _etcdctl(cluster, "member list").splitlines()]
    wanted = sorted(member.name for member in settings.etcd_members)
    assert sorted(member[2] for member in members) == wanted
    assert {(member[1], member[5]) for member in members} == {("started", "false")}
    # A machine that is busy may just be choosing another leader.
    eventually("every member healthy", lambda: _health(cluster) == [True] * len(wanted), seconds=60)
    nodes = cluster.get("nodes")["items"]
    ready = [
        node["metadata"]["name"]
        for node in nodes
        if any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"]["conditions"])
    ]
    # By kubeadm controllers are Nodes, too.
    assert sorted(ready) == sorted(machine.name for machine in settings.machines if machine.pod_cidr is not None)
    return cluster


def _health(cluster: Cluster) -> list[bool]:
    return [each["health"] for each in json.loads(_etcdctl(cluster, "endpoint health --cluster -w json"))]


def _etcdctl(cluster: Cluster, words: str) -> str:
    return cluster.ssh(cluster.controller.name, f". /etc/etcd/etcdctl.env && etcdctl {words}")
