"""Where kubeadm made the cluster, drills kill, stop and change pods; what that costs is under the same bars."""

from functools import partial
from typing import Any

import pytest

from lab.cluster import Cluster
from lab.commands import CHECKOUT, Ran
from lab.drilling import assert_within_its_bars, figures_of
from lab.polling import eventually
from lab.session import Show
from labs.kubeadm.conftest import STACK, live
from live import cluster as live_cluster
from live.drills import leadership
from live.drills.workload import NAMESPACE
from live.programs import LEADERS, LEFT_OUT
from toolchain import stack

pytestmark = pytest.mark.long

# A static pod and one of a DaemonSet are killed; a static pod gets another environment for a while.
DRILLS = ("kill-etcd", "kill-kube-scheduler", "kill-kube-proxy", "fill-quota")


@pytest.fixture(scope="module")
def figures(cluster: Cluster, show: Show, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, dict[str, Any]]:
    """The drills, done once: how the command ended, and its JSON."""
    return figures_of(DRILLS, stack=STACK, show=show, directory=tmp_path_factory.mktemp("drills"))


@pytest.mark.alone
@pytest.mark.parametrize("name", DRILLS)
def test_drill_is_within_its_limits(figures: tuple[Ran, dict[str, Any]], name: str) -> None:
    """A drill that hits nothing; a program that is not started again."""
    assert_within_its_bars(figures[1], name)


def test_leadership_moves_to_one_controller_with_static_pods(cluster: Cluster) -> None:
    """A controller that is lost without having led: that would cost nothing, and show nothing."""
    lab = live_cluster.find(stack.read(STACK))
    target = next(each for each in lab.etcd_members if each != leadership.holder(lab, "kube-scheduler"))
    leadership.gather(lab, target)
    assert [leadership.holder(lab, name) for name in LEADERS] == [target] * len(LEADERS)
    assert leadership.etcd_leader(lab) == target
    well = partial(live, "status")
    eventually("all static pods back", lambda: well().code == 0, seconds=60, report=lambda: well().output)


@pytest.mark.usefixtures("figures")
def test_nothing_of_the_drills_is_left(cluster: Cluster) -> None:
    """A static pod that stays left out, or with its small quota."""
    assert not (CHECKOUT / ".state" / STACK / "drill.json").exists()
    assert cluster.try_kubectl("get", "namespace", NAMESPACE).returncode != 0
    for machine in cluster.machines:
        left = cluster.ssh(
            machine.name, f"ls -d {LEFT_OUT} 2>/dev/null; grep -ls QUOTA /etc/kubernetes/manifests/*; true"
        )
        assert left == "", f"{machine.name}: {left}"
