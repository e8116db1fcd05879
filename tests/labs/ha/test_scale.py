"""More and fewer machines of a lab that is at work, by editing its file."""

import time

from lab.cluster import Cluster
from lab.commands import Ran, Started
from lab.session import Show
from lab.settings_file import lab_settings
from labs.ha.conftest import STACK
from live import cluster as live_cluster
from live.drills.probes import ApiClient, ApiWriter
from live.drills.samples import errors_for, longest_gap
from live.drills.workload import Workload
from live.https_api import Api
from toolchain import stack


def test_members_and_workers_are_added_and_removed_under_load(cluster: Cluster, show: Show) -> None:
    """Three controllers and etcd members become five and three again, two workers three and two, while clients write.

    What it would catch: a write that was acknowledged and is not there, API servers that restart all at once, a
    balancer that cuts its connections, a member that stays in the list, a worker that goes with its pods.
    """
    live = live_cluster.find(stack.read(STACK))
    api, workload = Api(live), Workload(live)
    workload.remove()
    workload.start()
    began = time.time()
    try:
        with ApiWriter(api, "scale") as writer, ApiClient(api) as client:
            with lab_settings(STACK, controllers=5, workers=3):
                larger = _up(show)
                assert _members(cluster) == [f"controller-{number} started false" for number in range(5)]
                assert _nodes(cluster) == {"worker-0", "worker-1", "worker-2"}
            smaller = _up(show)
            assert _members(cluster) == [f"controller-{number} started false" for number in range(3)]
            assert _nodes(cluster) == {"worker-0", "worker-1"}
        ended = time.time()
        lost = writer.lost()
        for probe in (writer, client):
            failed = [sample for sample in probe.samples if sample.error]
            show(
                f"{probe.name}: {len(probe.samples)} tries, {len(failed)} failed, errors for "
                f"{errors_for(probe.samples, began, ended):.1f} s, longest gap "
                f"{longest_gap(probe.samples, probe.samples[0].ended, probe.samples[-1].ended):.1f} s\n"
            )
        show(f"{len(writer.acknowledged)} writes acknowledged, {len(lost)} lost\n")
    finally:
        workload.remove()
    assert len(writer.acknowledged) > 100
    assert lost == []
    # No moment at which nobody served.
    assert longest_gap(client.samples, client.samples[0].ended, client.samples[-1].ended) < 5
    assert larger.summary["created"] > 0
    assert smaller.summary["deleted"] == larger.summary["created"]


def _up(show: Show) -> Ran:
    ran = Started("up", show=show, stack=STACK).wait()
    assert ran.code == 0, ran.output
    return ran


def _members(cluster: Cluster) -> list[str]:
    listed = cluster.ssh(cluster.controller.name, ". /etc/etcd/etcdctl.env && etcdctl member list")
    fields = [line.split(", ") for line in listed.splitlines()]
    return sorted(f"{field[2]} {field[1]} {field[5]}" for field in fields)


def _nodes(cluster: Cluster) -> set[str]:
    return {node["metadata"]["name"] for node in cluster.get("nodes")["items"]}
