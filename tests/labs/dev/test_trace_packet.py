"""`./hardway trace packet` on a lab: its hops are the cluster's, and nothing is left of it on the machines."""

import json
from typing import Any

from lab.cluster import Cluster
from lab.commands import Started
from lab.workload import ALONE_SERVICE, NAMESPACE, PORT, Pod, Workload
from live.trace.packet_events import TABLE


def trace(workload: Workload, *, code: int) -> tuple[Pod, dict[str, Any]]:
    """From a Pod on another worker to the Service of the Pod `alone`: which Pod, and what was printed."""
    client = next(pod for pod in workload.web if pod.node != workload.alone.node)
    arguments = ("trace", "packet", f"{NAMESPACE}/{client.name}", ALONE_SERVICE, "-n", NAMESPACE, "--json")
    ran = Started(*arguments, stack=workload.cluster.settings.name).wait()
    assert ran.code == code, ran.output
    found: dict[str, Any] = json.loads(ran.output)
    return client, found


def tables(cluster: Cluster) -> dict[str, str]:
    """The tables of nftables on each worker."""
    return {worker.name: cluster.ssh(worker.name, "nft list tables") for worker in cluster.workers}


def hops(found: dict[str, Any], part: str, machine: str) -> list[dict[str, Any]]:
    return [hop for hop in found["hops"] if (hop["part"], hop["machine"]) == (part, machine)]


def test_a_packet_is_followed_to_the_endpoint_and_back(workload: Workload) -> None:
    """Hops of another packet; rules that stay on a machine, or that an earlier trace has left."""
    cluster, alone = workload.cluster, workload.alone
    before = tables(cluster)
    for worker in cluster.workers:
        cluster.ssh(worker.name, f"nft add table inet {TABLE}; nft add table netdev {TABLE}")
    client, found = trace(workload, code=0)
    assert tables(cluster) == before
    service = cluster.get("service", ALONE_SERVICE, "-n", NAMESPACE)["spec"]["clusterIP"]
    assert found["answered"] and found["address"] == f"{service}:80"
    assert found["endpoint"] == f"{alone.address}:{PORT}"
    assert found["hops"][0]["what"].endswith(f"{ALONE_SERVICE}: {service}")
    there = hops(found, "request", client.node)
    assert any(f"{service}:80 becomes {alone.address}:{PORT}" in hop["what"] for hop in there), found
    assert any(f"src={alone.address} dst={client.address}" in line for hop in there for line in hop["evidence"]), found
    # No masquerade between Pods: the other worker sees the Pod's own address.
    arrived = [hop["evidence"][0] for hop in hops(found, "request", alone.node)]
    assert {line.partition(":")[0] for line in arrived if line.endswith("SYN")} == {client.address}, found
    assert hops(found, "answer", alone.node) and hops(found, "answer", client.node), found
    links = {node: cluster.ssh(node, "ls /sys/class/net").split() for node in (client.node, alone.node)}
    for hop in found["hops"]:
        assert hop["machine"] not in links or hop["interface"] in ("", *links[hop["machine"]]), hop


def test_a_packet_that_is_lost_ends_at_the_machine_without_the_route(workload: Workload) -> None:
    """A path that is shown as if the packet had arrived."""
    cluster = workload.cluster
    client = next(pod for pod in workload.web if pod.node != workload.alone.node)
    # Only removed, it would go to the default route: the host of the containers has routes to all Pods.
    cluster.ssh(client.node, f"ip route add unreachable {workload.alone.address}/32")
    try:
        _, found = trace(workload, code=1)
    finally:
        cluster.ssh(client.node, f"ip route del unreachable {workload.alone.address}/32")
    last = found["hops"][-1]
    assert not found["answered"] and last["ended"], found
    assert last["machine"] == client.node and last["part"] == "request", last
    assert any("No route to host" in line for line in last["evidence"]), last
    assert not hops(found, "request", workload.alone.node)
