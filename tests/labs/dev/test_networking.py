"""Pods, services, names and ports: who reaches whom, and by which address."""

import json
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from lab.commands import live
from lab.polling import eventually
from lab.workload import ALONE, ALONE_SERVICE, HOST_PORT, NAMESPACE, NODE_PORT, PORT, WEB, Workload


def test_pods_reach_each_other_by_address_across_workers(workload: Workload) -> None:
    """Missing routes between workers; and masquerading between pods, by which a policy or a log sees a worker."""
    first, second = workload.web
    assert first.node != second.node
    for caller, called in ((first, second), (second, first)):
        seen = workload.curl(caller, f"http://{called.address}:{PORT}/clientip")
        assert seen.rpartition(":")[0] == caller.address
        assert workload.curl(caller, f"http://{called.address}:{PORT}/hostname") == called.name


def test_a_pods_address_is_of_its_workers_range(workload: Workload) -> None:
    """A CNI configuration with another worker's range."""
    ranges = {worker.name: worker.pod_cidr for worker in workload.cluster.workers}
    for pod in (*workload.web, workload.alone):
        cidr = ranges[pod.node]
        assert cidr is not None
        assert pod.address in {str(address) for address in cidr}


def test_pods_reach_a_service_by_its_address_and_see_all_its_pods(workload: Workload) -> None:
    """kube-proxy's rules missing on a worker, or leading to pods of one's own worker only."""
    address = workload.cluster.get("service", WEB, "-n", NAMESPACE)["spec"]["clusterIP"]
    names = {pod.name for pod in workload.web}
    for caller in workload.web:
        _all_answer(names, lambda caller=caller: workload.curl(caller, f"http://{address}/hostname"))  # type: ignore[misc]


@pytest.mark.parametrize(
    "name",
    [
        WEB,
        f"{WEB}.{NAMESPACE}",
        f"{WEB}.{NAMESPACE}.svc",
        f"{WEB}.{NAMESPACE}.svc.cluster.local",
        f"{WEB}.{NAMESPACE}.svc.cluster.local.",
    ],
)
def test_pods_find_a_service_by_name(workload: Workload, name: str) -> None:
    """No cluster DNS, no search domains; or a search domain of the host's that is refused, which makes resolvers stop
    before they ask for the fully spelled name itself.
    """
    names = {pod.name for pod in workload.web}
    for caller in workload.web:
        assert workload.curl(caller, f"http://{name}/hostname") in names


def test_pods_inherit_no_search_domain_of_their_machine(workload: Workload) -> None:
    """The container engine's search domain in every pod."""
    resolver = workload.exec(workload.web[0], "cat", "/etc/resolv.conf")
    search = next(line.split()[1:] for line in resolver.splitlines() if line.startswith("search"))
    assert search == [f"{NAMESPACE}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    assert f"nameserver {workload.cluster.settings.network.dns_service}" in resolver


def test_a_name_outside_the_cluster_is_answered_at_once(workload: Workload) -> None:
    """A CoreDNS that lets pods wait for seconds for names that nobody near it knows."""
    said = workload.exec(workload.web[0], "dig", "+time=5", "+tries=1", "no-such-name.invalid.")
    assert any(f"status: {status}" in said for status in ("NXDOMAIN", "SERVFAIL")), said


def test_a_pod_reaches_itself_through_its_service(workload: Workload) -> None:
    """A bridge without hairpin mode: a pod that is chosen by its own Service does not answer."""
    assert workload.curl(workload.alone, f"http://{ALONE_SERVICE}/hostname") == ALONE


def test_a_node_port_answers_on_every_worker_from_everywhere(workload: Workload) -> None:
    """NodePorts that answer only from the worker itself, or only for pods that run on it."""
    cluster = workload.cluster
    names = {pod.name for pod in workload.web}
    for worker in cluster.workers:
        url = f"http://{worker.address}:{NODE_PORT}/hostname"
        _all_answer(names, lambda url=url: _get(url))  # type: ignore[misc]
        for machine in cluster.machines:
            assert cluster.ssh(machine.name, f"curl -sS --fail --max-time 5 {url}") in names, machine.name


def test_a_host_port_answers_from_everywhere_with_the_pod_of_that_worker(workload: Workload) -> None:
    """No portmap plugin: a HostPort that nobody listens on."""
    cluster = workload.cluster
    for worker, pod in zip(cluster.workers, workload.web, strict=True):
        url = f"http://{worker.address}:{HOST_PORT}/hostname"
        assert _get(url) == pod.name
        for machine in cluster.machines:
            assert cluster.ssh(machine.name, f"curl -sS --fail --max-time 5 {url}") == pod.name, machine.name


def test_machines_and_pulumi_host_reach_pods(workload: Workload) -> None:
    """Routes to pods on the workers alone: the API server's proxies and webhooks dial pods from the controllers."""
    cluster = workload.cluster
    for pod in workload.web:
        url = f"http://{pod.address}:{PORT}/hostname"
        assert _get(url) == pod.name
        for machine in cluster.machines:
            assert cluster.ssh(machine.name, f"curl -sS --fail --max-time 5 {url}") == pod.name, machine.name


def test_the_api_server_reaches_pods_and_services(workload: Workload) -> None:
    """A control plane without the pod routes: its proxies time out."""
    cluster, pod = workload.cluster, workload.web[0]
    at = f"/api/v1/namespaces/{NAMESPACE}"
    assert cluster.raw(f"{at}/pods/{pod.name}:{PORT}/proxy/hostname") == pod.name
    assert cluster.raw(f"{at}/services/{WEB}:80/proxy/hostname") in {pod.name for pod in workload.web}


@pytest.fixture
def outside(workload: Workload) -> Iterator[tuple[str, list[str]]]:
    """A server on an address of the host outside of the lab: where it is, and who called."""
    network = workload.cluster.settings.network
    interfaces = json.loads(subprocess.run(["ip", "-4", "-j", "address"], capture_output=True, check=True).stdout)
    addresses = [entry["local"] for interface in interfaces for entry in interface["addr_info"]]
    # Any of the host's addresses is outside but its loopback and the lab's gateway.
    address = next(a for a in addresses if not a.startswith("127.") and a != str(network.gateway))
    callers: list[str] = []
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            while True:
                try:
                    connection, caller = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    callers.append(caller[0])
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://{address}:{port}/", callers


def test_packets_of_pods_leave_the_lab_with_the_workers_address(
    workload: Workload, outside: tuple[str, list[str]]
) -> None:
    """No masquerading: nobody outside knows the way back to a pod."""
    url, callers = outside
    nodes = {worker.name: str(worker.address) for worker in workload.cluster.workers}
    for pod in workload.web:
        assert workload.curl(pod, url) == "ok"
        assert callers.pop() == nodes[pod.node]


def _all_answer(names: set[str], ask: Callable[[], str]) -> None:
    seen: set[str] = set()

    def everybody() -> bool:
        seen.add(ask())
        return seen >= names

    # Each answer is of a pod chosen by chance.
    eventually(f"answers of {names}", everybody, seconds=60, pause=0)
    assert seen == names


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def test_check_network_names_a_port_that_a_firewall_closes(workload: Workload) -> None:
    """A check that is content with the ports of one machine, or that takes a dropped packet for an answer."""
    cluster = workload.cluster
    well = live("check-network")
    assert well.code == 0, well.output
    worker = cluster.workers[0].name
    rules = "table inet closed { chain in { type filter hook input priority 0; tcp dport 10250 drop; }; }"
    cluster.ssh(worker, f"nft '{rules}'")
    try:
        ran = live("check-network")
    finally:
        cluster.ssh(worker, "nft delete table inet closed")
    assert ran.code == 1, ran.output
    others = [machine.name for machine in cluster.machines if machine.name != worker]
    closed = [f"{other} -> {worker}:10250 (kubelet): no answer within 3 s" for other in others]
    assert sorted(ran.output.splitlines()[:-1]) == sorted(closed), ran.output
