"""Calico between workers, and for those that are no nodes of Calico's: the API server, and the host."""

from urllib.request import urlopen

from lab.cluster import Cluster
from lab.workload import NAMESPACE, PORT, WEB, Workload
from labs.dev.test_networking import (
    test_a_pods_address_is_of_its_workers_range,
    test_pods_reach_each_other_by_address_across_workers,
)

# Also with Calico, whose blocks would by themselves fall where no route of the lab's finds them.
__all__ = [
    "test_a_pods_address_is_of_its_workers_range",
    "test_pods_reach_each_other_by_address_across_workers",
]


def test_calico_is_there_for_every_node(cluster: Cluster) -> None:
    """A lab that is called ready before its network is; a second address management beside Calico's."""
    nodes = cluster.get("nodes")["items"]
    assert cluster.outputs["readiness"]["calico_nodes_ready"] == len(nodes) >= len(cluster.workers)
    for node in nodes:
        states = {entry["type"]: entry["status"] for entry in node["status"]["conditions"]}
        assert states["NetworkUnavailable"] == "False"
    for worker in cluster.workers:
        assert cluster.ssh(worker.name, "ls /etc/cni/net.d").split() == ["10-calico.conflist"]


def test_packets_between_workers_are_encapsulated(workload: Workload) -> None:
    """The lab's own routes between workers, by which nobody would notice a tunnel that does not work."""
    cluster, (first, second) = workload.cluster, workload.web
    assert first.node != second.node
    for caller, called in ((first, second), (second, first)):
        route = cluster.ssh(caller.node, f"ip route get {called.address}")
        assert "dev vxlan.calico" in route, route


def test_pods_find_services_by_name(workload: Workload) -> None:
    """kube-proxy and Felix that get into each other's way."""
    names = {pod.name for pod in workload.web}
    for caller in workload.web:
        assert workload.curl(caller, f"http://{WEB}.{NAMESPACE}.svc.cluster.local/hostname") in names


def test_api_server_and_pulumi_host_reach_pods(workload: Workload) -> None:
    """VXLAN is known to nodes only, and controllers are none: webhooks and aggregated APIs that time out."""
    cluster = workload.cluster
    for pod in workload.web:
        at = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.name}:{PORT}/proxy/hostname"
        assert cluster.raw(at) == pod.name
        url = f"http://{pod.address}:{PORT}/hostname"
        assert cluster.ssh(cluster.balancer.name, f"curl -sS --fail --max-time 5 {url}") == pod.name
        with urlopen(url, timeout=5) as answer:
            assert answer.read().decode() == pod.name
