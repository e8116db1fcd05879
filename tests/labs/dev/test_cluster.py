"""The cluster is the one that was asked for, and says so in its outputs."""

import json
import os
import subprocess

import yaml

from lab.cluster import Cluster
from lab.commands import CHECKOUT, STACK
from lab.footprint import PREFIX, podman
from lab.polling import eventually


def test_every_node_is_ready_with_its_address_and_version(cluster: Cluster) -> None:
    """A node with another address or version than asked for, or none."""
    nodes = {item["metadata"]["name"]: item["status"] for item in cluster.get("nodes")["items"]}
    assert nodes.keys() == {worker.name for worker in cluster.workers}
    for worker in cluster.workers:
        status = nodes[worker.name]
        assert {"type": "InternalIP", "address": str(worker.address)} in status["addresses"]
        assert status["nodeInfo"]["kubeletVersion"] == f"v{cluster.outputs['versions']['kubernetes']}"
        assert {entry["type"]: entry["status"] for entry in status["conditions"]}["Ready"] == "True"


def test_a_nodes_pod_range_is_the_one_that_is_routed_to_it(cluster: Cluster) -> None:
    """A podCIDR in the API that is not the CNI configuration's and the routes'."""
    ranges = {machine["name"]: machine["pod_cidr"] for machine in cluster.outputs["machines"] if machine["pod_cidr"]}
    nodes = cluster.get("nodes")["items"]
    assert {node["metadata"]["name"]: node["spec"]["podCIDR"] for node in nodes} == ranges
    for worker in cluster.workers:
        conflist = cluster.ssh(worker.name, "cat /etc/cni/net.d/10-bridge.conflist")
        assert f'"subnet": "{ranges[worker.name]}"' in conflist


def test_machines_have_the_limits_of_the_settings(cluster: Cluster) -> None:
    """Settings that the container engine is not told."""
    limits = podman(
        "container",
        "inspect",
        "--format={{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}",
        *(f"{PREFIX}-{machine.name}" for machine in cluster.machines),
    )
    assert set(limits.splitlines()) == {f"{2 * 10**9} {2048 * 2**20}"}


def test_kubelets_are_configured_for_the_clusters_dns(cluster: Cluster) -> None:
    """A kubelet without clusterDNS and clusterDomain (pods find no service), or with maxPods 16."""
    for worker in cluster.workers:
        kubelet = yaml.safe_load(cluster.raw(f"/api/v1/nodes/{worker.name}/proxy/configz"))["kubeletconfig"]
        assert kubelet["clusterDNS"] == [str(cluster.settings.network.dns_service)]
        assert kubelet["clusterDomain"] == "cluster.local"
        assert kubelet["maxPods"] == 110


def test_leases_of_controller_manager_and_scheduler_are_held(cluster: Cluster) -> None:
    """Leader election that is off or that nobody wins."""
    for program in ("kube-controller-manager", "kube-scheduler"):
        holder = cluster.get("lease", program, "--namespace", "kube-system")["spec"]["holderIdentity"]
        assert holder.startswith(cluster.controller.name), f"{program}: {holder}"


def test_outputs_tell_how_to_reach_the_lab(cluster: Cluster) -> None:
    """Outputs that are missing, or that are not this lab's."""
    outputs = cluster.outputs
    endpoint = f"https://{cluster.balancer.address}:6443"
    assert outputs["endpoint"] == endpoint
    assert yaml.safe_load(outputs["kubeconfig"])["clusters"][0]["cluster"]["server"] == endpoint
    assert [machine["name"] for machine in outputs["machines"]] == [machine.name for machine in cluster.machines]
    assert len(outputs["certificates"]) >= 14
    assert outputs["readiness"]["dns_answer"].endswith(str(cluster.settings.network.api_service))


def test_kubectl_and_ssh_reach_it(cluster: Cluster) -> None:
    """Commands of the tool chain that lose their arguments or do not find the lab."""

    def hardway(*arguments: str) -> str:
        command = [str(CHECKOUT / "hardway"), "--stack", STACK, *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    path = "jsonpath={.items[*].metadata.name}"
    assert hardway("kubectl", "get", "nodes", "-o", path).split() == [worker.name for worker in cluster.workers]
    machine = cluster.workers[0].name
    assert hardway("ssh", machine, "--", 'echo "$(hostname) $(id -u)"') == f"{machine} 0\n"
    assert hardway("ssh", machine, "--", "printf", "<%s>", "a b", "$HOME") == "<a b><$HOME>"
    assert " kubelet[" in hardway("logs", machine, "kubelet", "-n", "5")
    assert json.loads(hardway("status", "--json"))["stack"] == STACK


def test_ssh_trusts_the_labs_host_keys_and_no_other(cluster: Cluster) -> None:
    """An ssh_config that connects to any host at a machine's address."""
    config = (cluster.directory / "ssh_config").read_text()
    one, other = cluster.workers[0], cluster.workers[1]
    swapped = config.replace(f"HostName {one.address}", f"HostName {other.address}")
    assert swapped != config
    scratch = cluster.directory / f"ssh_config.{os.getpid()}"
    scratch.write_text(swapped)
    try:
        command = ["ssh", "-F", str(scratch), "-i", str(cluster.directory / "ssh_key"), one.name, "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    finally:
        scratch.unlink()
    assert done.returncode != 0
    assert "Host key verification failed" in done.stderr


def test_coredns_runs_on_different_workers(cluster: Cluster) -> None:
    """Both replicas on one worker: names are gone with it."""

    def where() -> list[str]:
        pods = cluster.get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"]
        return sorted(pod["spec"]["nodeName"] for pod in pods if pod["status"]["phase"] == "Running")

    workers = [worker.name for worker in cluster.workers]
    eventually("a CoreDNS pod on each worker", lambda: where() == workers, seconds=60, report=cluster.situation)
