"""A cluster of kubeadm's that loses its data, or a controller, its first one: it is what it was."""

from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.footprint import podman, running
from lab.polling import eventually
from lab.session import Show
from labs.kubeadm.conftest import STACK, live

_EARLY, _LATE = "saved-early", "made-late"


def test_members_take_snapshots_by_themselves(cluster: Cluster) -> None:
    """A timer that is not there, or that starts what cannot find the member."""
    take = "systemctl is-active etcd-snapshot.timer && systemctl start etcd-snapshot.service"
    said = cluster.ssh(cluster.controller.name, f"{take} && ls /var/lib/etcd-snapshots").splitlines()
    assert said[0] == "active" and len(said) == 2, said


@pytest.mark.long
def test_saved_data_are_restored_after_all_members_lost_theirs(cluster: Cluster, tmp_path: Path, show: Show) -> None:
    """A kubelet that starts what a restore has stopped; members of several clusters; Nodes that stay away."""
    cluster.kubectl("create", "configmap", _EARLY)
    file = tmp_path / "lab.db"
    taken = live("snapshot", str(file))
    assert taken.code == 0, taken.output
    cluster.kubectl("delete", "configmap", _EARLY)
    cluster.kubectl("create", "configmap", _LATE)
    for member in cluster.settings.etcd_members:
        cluster.ssh(member.name, "systemctl stop kubelet; pkill -9 -x etcd; rm -rf /var/lib/etcd/member")
    ran = live("restore", str(file), show=show)
    assert ran.code == 0, ran.output
    names = {item["metadata"]["name"] for item in cluster.get("configmaps")["items"]}
    assert _EARLY in names and _LATE not in names
    cluster.kubectl("delete", "configmap", _EARLY)
    _is_well()


@pytest.mark.long
def test_dead_first_controller_is_recreated_without_loss(cluster: Cluster, show: Show) -> None:
    """A second cluster where there is one; a member whose old self stays in the list."""
    victim = cluster.controller.name
    before = cluster.etcd_ids("controller-1")
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=1")
    podman("stop", "--time", "0", f"hardway-{STACK}-{victim}")
    ran = live("replace", victim, show=show)
    assert ran.code == 0, ran.output
    after = cluster.etcd_ids(victim)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {victim}
    cluster.kubectl("delete", "configmap", "kept")
    secrets = cluster.get("secrets", "--namespace", "kube-system")["items"]
    assert [secret["metadata"]["name"] for secret in secrets if secret["type"].startswith("bootstrap")] == []
    assert "token" not in cluster.ssh(victim, "ls /etc/hardway")
    _is_well()


def test_replacement_that_loses_the_quorum_is_refused(cluster: Cluster) -> None:
    """Two machines recreated at once: no remaining member has the cluster."""
    before = running(STACK)
    assert before
    ran = live("replace", "controller-0", "controller-1")
    assert ran.code == 1
    assert "etcd has 3 members and needs 2 to work" in ran.output
    assert "Nothing was changed" in ran.output and "kubeadm cannot bootstrap a new cluster" in ran.output
    assert running(STACK) == before


def _is_well() -> None:
    # The balancer's checks of a new API server come after it serves.
    eventually("a healthy lab", lambda: live("status").code == 0, seconds=90, report=lambda: live("status").output)
