"""Faults by chance against clients whose history must be linearizable; and a bug that the checks must find.

HARDWAY_SEED says which faults the long run has (others every time; the seed is printed), HARDWAY_FAULTS how many (100).
"""

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.cluster import Cluster
from lab.commands import CHECKOUT, Ran, Started
from lab.drilling import search
from lab.polling import eventually
from lab.session import Show
from labs.ha.conftest import STACK
from labs.ha.old_data import OldData
from live import cluster as live_cluster
from live.drills.faults import TABLE
from live.https_api import Api
from live.search import clients
from live.search.checks import Checker
from live.search.plan import Planned
from live.search.run import Place, inject
from toolchain import stack
from toolchain.from_source import linearizability
from toolchain.progress import Report

# One of each kind that takes seconds: restart, SIGKILL, loss of packets, one-way partition, SIGSTOP.
EVERY_RUN = (7818, 5)
FREEZE = ("--seed", "7818", "--only", "5")
SEED = int(os.environ.get("HARDWAY_SEED", str(random.SystemRandom().randrange(10**6))))
FAULTS = int(os.environ.get("HARDWAY_FAULTS", "100"))
_MARK = CHECKOUT / ".state" / STACK / "search.json"
_MINUTES = 85 * 60


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A seeded drill that was done: how the command ended, and its JSON."""

    count: int
    ran: Ran
    document: dict[str, Any]


@pytest.fixture(
    scope="module",
    params=[EVERY_RUN, pytest.param((SEED, FAULTS), marks=pytest.mark.long)],
    ids=["every-run", "long"],
)
def searched(
    request: pytest.FixtureRequest, cluster: Cluster, show: Show, tmp_path_factory: pytest.TempPathFactory
) -> Searched:
    """Faults by chance."""
    seed, count = request.param
    file = tmp_path_factory.mktemp("search") / "verdicts.json"
    show(f"\n{count} faults, HARDWAY_SEED={seed}\n")
    words = ("--seed", str(seed), "--faults", str(count), "--json", str(file))
    ran = search(*words, stack=STACK, show=show).wait(seconds=_MINUTES)
    return Searched(count=count, ran=ran, document=json.loads(file.read_text()))


def test_no_fault_loses_a_write_or_shows_an_old_one(searched: Searched) -> None:
    found = searched.document["faults"]
    assert {each["does"]: each["violations"] for each in found if each["violations"]} == {}
    # With the last log lines of what did not become healthy.
    failures = [f"{each['does']}: {each['failure']}" for each in found if each["failure"]]
    assert searched.document["trouble"] == "", "\n".join(failures)
    assert len(found) == searched.count
    # With answers that come a second late there were 10 in a fault's 5 s.
    assert min(each["acknowledged"] for each in found) >= 5
    assert all(each["passed"] for each in found)
    assert searched.ran.code == 0, searched.ran.output


@pytest.mark.usefixtures("searched")
def test_nothing_of_the_faults_is_left(cluster: Cluster) -> None:
    assert not _MARK.exists()
    look = f"""nft list table inet {TABLE} 2>/dev/null
        ls -d /etc/systemd/system/etcd.service.d /var/lib/etcd-hardway-drill /var/lib/etcd.removed 2>/dev/null
        findmnt -n -o TARGET /var/lib/etcd
        systemctl list-units --all --plain --no-legend 'hardway-drill*'
        echo seen"""
    for machine in cluster.machines:
        assert cluster.ssh(machine.name, look) == "seen\n", machine.name
    eventually("a healthy lab", lambda: Started("status", stack=STACK).wait().code == 0, seconds=120)
    eventually(
        "no namespace of the drill",
        lambda: cluster.try_kubectl("get", "namespace", clients.NAMESPACE).returncode != 0,
        seconds=90,
    )


@pytest.mark.long
def test_a_run_that_was_killed_is_repaired_by_the_next(cluster: Cluster, show: Show) -> None:
    """A frozen program that stays frozen."""
    running = search(*FREEZE, stack=STACK, show=show)
    eventually("a fault", _MARK.exists, seconds=120, report=lambda: running.output, pause=0.05)
    running.kill_everything()
    running.wait()
    ran = search(*FREEZE, stack=STACK, show=show).wait()
    assert ran.code == 0, ran.output
    assert "Repairing what a seeded drill left" in ran.output


@pytest.mark.long
def test_a_member_with_old_data_is_found(cluster: Cluster, tmp_path: Path) -> None:
    """The last test of this lab: what watches the API may wait for versions that are gone."""
    lab = live_cluster.find(stack.read(STACK))
    api = Api(lab)
    with Report() as report:
        checker = Checker(program=linearizability.ensure(report))
    clients.make_namespace(api, seconds=90)
    planned = Planned(seed=0, number=1, kind="restart", machine=lab.etcd_members[0].name)
    place = Place(cluster=lab, api=api, checker=checker, directory=tmp_path)
    verdict = inject(planned, place, lambda _, of, __: OldData(of))
    if kept := os.environ.get("HARDWAY_KEEP_HISTORY"):
        shutil.copy(tmp_path / "1.jsonl", kept)
    print(verdict)
    assert not verdict.passed
    assert any("not linearizable" in each for each in verdict.violations), verdict
