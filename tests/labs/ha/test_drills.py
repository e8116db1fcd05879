"""The quick half of the drills, as a person runs them, some in every run; and drills that do not come to their end."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from config.machines import Role
from lab.cluster import Cluster
from lab.commands import CHECKOUT, Ran
from lab.drilling import assert_within_its_bars, drill, figures_of
from lab.footprint import podman
from lab.polling import eventually
from lab.session import Show
from labs.ha.conftest import STACK
from live.drills.catalogue import DRILLS
from live.drills.faults import TABLE
from live.drills.probes import ETCD_PREFIX
from live.drills.workload import NAMESPACE

# What holds the data, what serves it, and what stands before it.
EVERY_RUN = ("kill-etcd", "kill-kube-apiserver", "kill-haproxy")
OTHERS = tuple(drill.name for drill in DRILLS if drill.quick and drill.name not in EVERY_RUN)
_MARK = CHECKOUT / ".state" / STACK / "drill.json"


@dataclass(frozen=True, kw_only=True)
class Done:
    """Drills that were done together: how the command ended, and its JSON."""

    names: tuple[str, ...]
    ran: Ran
    document: dict[str, Any]


@pytest.fixture(scope="module", params=[EVERY_RUN, pytest.param(OTHERS, marks=pytest.mark.long)], ids="-".join)
def done(
    request: pytest.FixtureRequest, cluster: Cluster, show: Show, tmp_path_factory: pytest.TempPathFactory
) -> Done:
    """The drills of the quick half."""
    ran, document = figures_of(request.param, stack=STACK, show=show, directory=tmp_path_factory.mktemp("drills"))
    return Done(names=request.param, ran=ran, document=document)


@pytest.mark.alone
def test_killed_program_is_within_its_limits(done: Done) -> None:
    for name in done.names:
        assert_within_its_bars(done.document, name)


def test_the_command_says_that_all_passed(done: Done) -> None:
    assert done.ran.code == 0
    assert done.document["passed"]
    assert tuple(each["name"] for each in done.document["drills"]) == done.names


@pytest.mark.usefixtures("done")
def test_nothing_of_the_drills_is_left(cluster: Cluster) -> None:
    _nothing_is_left(cluster)


def test_interrupted_drill_repairs_its_fault(cluster: Cluster, show: Show) -> None:
    """A machine that stays off, a namespace that stays."""
    running = drill("stop-worker", stack=STACK, show=show)
    worker = f"hardway-{STACK}-{cluster.workers[-1].name}"
    eventually(f"{worker} off", lambda: not _runs(worker), seconds=180, report=lambda: running.output)
    running.interrupt()
    ran = running.wait(seconds=120)
    assert ran.code == 1
    assert "Interrupted" in ran.output
    assert _runs(worker)
    _nothing_is_left(cluster)


@pytest.mark.long
def test_fault_of_a_killed_drill_is_repaired_by_the_next(cluster: Cluster, show: Show) -> None:
    """A controller that stays cut off for good."""
    running = drill("partition", stack=STACK, show=show)
    cut = eventually(
        "a controller cut off", lambda: _cut_off(cluster), seconds=180, report=lambda: running.output, pause=0.5
    )
    running.kill_everything()
    running.wait()
    assert _cut_off(cluster) == cut
    assert json.loads(_MARK.read_text())["hit"] == cut
    # The next drill checks health before it begins.
    ran = eventually("a drill that passes", lambda: _passes(show), seconds=240, pause=1)
    assert ran
    assert _cut_off(cluster) == ""
    _nothing_is_left(cluster)


def test_a_drill_that_does_not_exist(cluster: Cluster, show: Show) -> None:
    ran = drill("kill-all-humans", stack=STACK, show=show).wait()
    assert ran.code == 1
    assert "There is no drill kill-all-humans: it must be one or more of kill-etcd, " in ran.output


def test_a_drill_that_needs_two_balancers(cluster: Cluster, show: Show) -> None:
    ran = drill("stop-balancer", stack=STACK, show=show).wait()
    assert ran.code == 1
    assert "it needs two machines with the role load-balancer at least; ha-test has 1" in ran.output


def _passes(show: Show) -> bool:
    return drill("kill-kube-proxy", stack=STACK, show=show).wait().code == 0


def _cut_off(cluster: Cluster) -> str:
    """The controller that has the drills' rules."""
    for controller in cluster.settings.with_role(Role.CONTROLLER):
        if cluster.try_ssh(controller.name, f"nft list table inet {TABLE}").returncode == 0:
            return controller.name
    return ""


def _runs(container: str) -> bool:
    return container in podman("ps", "--format", "{{.Names}}").split()


def _nothing_is_left(cluster: Cluster) -> None:
    assert not _MARK.exists()
    assert cluster.try_kubectl("get", "namespace", NAMESPACE).returncode != 0
    keys = f". /etc/etcd/etcdctl.env && etcdctl get --prefix --keys-only {ETCD_PREFIX}"
    assert cluster.ssh(cluster.controller.name, keys).strip() == ""
    assert _cut_off(cluster) == ""
    drop_ins = "/run/systemd/system/*/hardway-drill.conf"
    for machine in cluster.machines:
        # One whose power was cut may still be booting.
        done = eventually(
            f"an answer of {machine.name}",
            lambda name=machine.name: cluster.ssh(name, f"ls -d {drop_ins} 2>/dev/null || true; echo done"),  # type: ignore[misc]
            seconds=90,
        )
        assert done == "done\n"
    assert _runs(f"hardway-{STACK}-{cluster.workers[-1].name}")
