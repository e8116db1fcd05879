"""Machines that are dead, recreated by `./hardway replace`."""

import json

from lab.cluster import Cluster
from lab.commands import Ran, Started, pulumi
from lab.footprint import podman, running
from lab.polling import eventually
from lab.session import Show
from labs.ha.conftest import STACK

VICTIM = "controller-1"


def replace(*machines: str, show: Show) -> Ran:
    """`./hardway replace ...`."""
    return Started("replace", *machines, show=show, stack=STACK).wait()


def test_dead_controller_is_recreated_without_loss(cluster: Cluster, show: Show) -> None:
    """What it would catch: a member that founds a cluster of its own, or whose old self stays in the list."""
    before = cluster.etcd_ids(cluster.controller.name)
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=1")
    # The leader: the others elect another one while `replace` asks whether they are a quorum.
    members = ",".join(f"https://{each.address}:2379" for each in cluster.controllers)
    asked = f". /etc/etcd/etcdctl.env && ETCDCTL_ENDPOINTS={members} etcdctl move-leader {before[VICTIM]}"
    cluster.ssh(cluster.controller.name, asked)
    podman("stop", "--time", "0", f"hardway-{STACK}-{VICTIM}")
    ran = replace(VICTIM, show=show)
    assert ran.code == 0, ran.output
    after = cluster.etcd_ids(cluster.controller.name)
    assert after.keys() == before.keys()
    # Another member in the place of the one that is dead; the others are the same.
    assert {name for name in after if after[name] != before[name]} == {VICTIM}
    healthy = ". /etc/etcd/etcdctl.env && etcdctl endpoint health --cluster"
    eventually("every member healthy", lambda: cluster.try_ssh(VICTIM, healthy).returncode == 0, seconds=60)
    cluster.kubectl("delete", "configmap", "kept")
    # The balancer's checks of the new API server come after it serves.
    eventually("a healthy lab", lambda: _status().code == 0, seconds=90, report=lambda: _status().output)
    # The new member has been compared with the others.
    members = json.loads(_status("--json").output)["etcd"]
    assert len(members) == 3 and len({member["hash"] for member in members} - {None}) == 1, members


def test_replacement_that_loses_the_quorum_is_refused(cluster: Cluster, show: Show) -> None:
    before = running(STACK)
    assert before
    ran = replace("controller-0", "controller-1", show=show)
    assert ran.code == 1
    assert "etcd has 3 members and needs 2 to work" in ran.output
    assert "Nothing was changed" in ran.output
    assert running(STACK) == before


def test_a_network_is_not_replaced_by_plain_pulumi(cluster: Cluster) -> None:
    """Its machines are deleted before it, one by one: the first of them would go before one is refused."""
    before = running(STACK)
    ran = pulumi("up", "--yes", "--skip-preview", "--replace", "**::machines-network", stack=STACK)
    assert ran.code != 0
    assert "Refused: this would remove controller-0, controller-1, controller-2. etcd has 3 members" in ran.output
    assert running(STACK) == before


def _status(*arguments: str) -> Ran:
    return Started("status", *arguments, stack=STACK).wait()
