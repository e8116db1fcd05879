"""kill -9 of `up` and `destroy` at random moments: the next run finishes, with nothing repaired by hand.

HARDWAY_KILLS says how many kills (3), HARDWAY_SEED which moments (others every time; the seed is printed).
"""

import json
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from config import lab as config
from ha.conftest import STACK
from lab import footprint, session
from lab.cluster import Cluster
from lab.commands import Ran, Started, exported
from lab.polling import eventually
from lab.session import Show
from lab.settings_file import lab_settings

KILLS = int(os.environ.get("HARDWAY_KILLS", "3"))
SEED = int(os.environ.get("HARDWAY_SEED", str(random.SystemRandom().randrange(10**6))))
# Of one run, on an idle machine: a first guess, replaced by what the runs took.
SECONDS = {"up": 30.0, "scale-up": 40.0, "destroy": 6.0}
LARGER = {"controllers": 5, "workers": 3}


@pytest.fixture(autouse=True)
def empty_stack(show: Show) -> Iterator[None]:
    """No lab before, no lab after."""
    with session.empty_stack(STACK, show):
        yield


def test_every_run_that_was_killed_is_finished_by_the_next(show: Show) -> None:
    """What it would catch: machines twice or half made, a member that is in the list and nowhere else, stale locks."""
    chance = random.Random(SEED)
    show(f"\n{KILLS} kills, HARDWAY_SEED={SEED}\n")
    for number in range(KILLS):
        kind = ("up", "scale-up", "destroy")[number % 3]
        # A destroy follows a scale-up: of all that was made.
        with lab_settings(STACK, **LARGER) if kind != "up" else nullcontext():
            command = "destroy" if kind == "destroy" else "up"
            killed = _killed(command, kind, chance)
            started = time.monotonic()
            finished = Started(command, stack=STACK).wait()
            seconds = time.monotonic() - started
            show(f"kill {number + 1} of {KILLS}: {killed}; the next finished in {seconds:.1f} s\n")
            assert finished.code == 0, finished.output
            _check(command, session.settings_of(STACK), finished)
    if KILLS % 3 != 0:
        assert Started("destroy", stack=STACK).wait().code == 0


def _killed(command: str, kind: str, chance: random.Random) -> str:
    """Start a command and kill it; what was done, for people."""
    while True:
        after = chance.uniform(0.3, SECONDS[kind])
        everything = chance.random() < 0.5
        started = time.monotonic()
        run = Started(command, stack=STACK)
        while time.monotonic() < started + after and run.is_at_work:
            time.sleep(0.05)
        if run.is_at_work:
            # Before it has an engine there is nothing else to kill.
            everything = everything or not run.kill_cli()
            if everything:
                run.kill_everything()
        if run.wait().code != 0:
            done = sum(bool(re.search(r" (created|updated|deleted) \(", line)) for line in run.lines)
            return f"{kind}, {'all of it' if everything else 'its engine'} after {after:.1f} s, {done} resources done"
        # It was quicker than thought: take it back, and choose from a shorter time.
        SECONDS[kind] = (time.monotonic() - started) * 0.9
        _back_to_before(kind)


def _back_to_before(kind: str) -> None:
    before = {"up": "destroy", "scale-up": "up", "destroy": "up"}[kind]
    with lab_settings(STACK, **({"controllers": 3, "workers": 2} if kind == "scale-up" else {})):
        done = Started(before, stack=STACK).wait()
    assert done.code == 0, done.output


def _check(command: str, settings: config.Lab, finished: Ran) -> None:
    """What the next run left is whole."""
    assert '"pending_operations"' not in exported(stack=STACK)
    if command == "destroy":
        eventually(
            "a host without any trace of the lab",
            lambda: not any(footprint.of_lab(settings).values()),
            seconds=30,
            report=lambda: str(footprint.of_lab(settings)),
        )
        return
    cluster = Cluster(settings=settings, up=finished, command_lines=frozenset())
    names = sorted(machine.name for machine in settings.machines)
    assert footprint.named(f"hardway-{STACK}", "ps", "--format", "{{.Names}}") == [
        f"hardway-{STACK}-{n}" for n in names
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
    assert sorted(ready) == sorted(worker.name for worker in cluster.workers)


def _health(cluster: Cluster) -> list[bool]:
    return [each["health"] for each in json.loads(_etcdctl(cluster, "endpoint health --cluster -w json"))]


def _etcdctl(cluster: Cluster, words: str) -> str:
    return cluster.ssh(cluster.controller.name, f". /etc/etcd/etcdctl.env && etcdctl {words}")
