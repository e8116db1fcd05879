"""Machines that restart, and a host that does: the lab recovers by itself, and nothing has grown."""

import shlex
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest

from components.substrates.containers.substrate import boot_unit
from components.substrates.pulumi_host import host_routes
from lab.cluster import Cluster
from lab.commands import STACK, resources, toolchain
from lab.footprint import PREFIX, podman
from lab.polling import eventually
from lab.workload import ALONE, ALONE_SERVICE, NAMESPACE, NODE_PORT, PORT, WEB, Workload

Persistent = Mapping[str, str]


def persistent(cluster: Cluster, machine: str) -> Persistent:
    """What must be the same before and after a restart of a machine."""
    asked = {
        # Which name stands first in the engine's own part is the engine's matter.
        "host table": "sed -n '/^# BEGIN hardway$/,/^# END hardway$/p' /etc/hosts",
        "blocks in the host table": "grep -c '^# BEGIN hardway$' /etc/hosts",
        "routes": "ip -4 route | grep -v -e cni0 | sort",
        "addresses": "ip -4 -br address show eth0 | awk '{print $3}'",
        # With another one the other machines send to the old one for up to a minute.
        "hardware address": "cat /sys/class/net/eth0/address",
        "host name": "hostname",
        "sysctls": "sysctl net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables",
        "sysctl and module files": "cd / && cat etc/sysctl.d/*.conf etc/modules-load.d/*.conf | sha256sum",
        "swap": "swapon --show --noheadings | wc -l",
        "failed units": "systemctl --failed --plain --no-legend | wc -l",
    }
    script = "\n".join(f"echo '== {name}'; {command}" for name, command in asked.items())
    parts = cluster.ssh(machine, script).split("== ")[1:]
    return dict(part.split("\n", 1) for part in parts)


@pytest.fixture(scope="module")
def before(cluster: Cluster) -> dict[str, Persistent]:
    """What the machines have before anything is restarted."""
    return {machine.name: persistent(cluster, machine.name) for machine in cluster.machines}


def test_boot_units_are_installed(cluster: Cluster, before: dict[str, Persistent]) -> None:
    """Comparisons of nothing with nothing, below."""
    for machine in cluster.machines:
        has = before[machine.name]
        assert has["blocks in the host table"] == "1\n"
        assert all(f"{other.address} {other.fqdn} {other.name}\n" in has["host table"] for other in cluster.machines)
        routed = [worker for worker in cluster.workers if worker.name != machine.name]
        assert all(f"{worker.pod_cidr} via {worker.address}" in has["routes"] for worker in routed)
        assert has["sysctls"].count("= 1") == 2
        assert has["failed units"] == "0\n"


def test_the_host_step_can_be_run_again_and_again(cluster: Cluster, before: dict[str, Persistent]) -> None:
    """/etc/hosts, sysctl or module files that grow with every run."""
    for machine in cluster.machines:
        script, library = _host_step(machine.name)
        for _ in range(2):
            cluster.ssh(machine.name, script, stdin=library)
        assert persistent(cluster, machine.name) == before[machine.name]


def test_worker_works_again_after_a_reboot(workload: Workload, before: dict[str, Persistent]) -> None:
    """Routes, swap or a host table that do not outlive a reboot; pods that do not start again."""
    worker = workload.cluster.workers[1]
    podman("restart", f"{PREFIX}-{worker.name}")
    _comes_back(workload, before, [worker.name])


def test_controller_works_again_after_a_power_cut(workload: Workload, before: dict[str, Persistent]) -> None:
    """An etcd, an API server or a controller that needs a hand to start."""
    controller = workload.cluster.controller
    podman("kill", f"{PREFIX}-{controller.name}")
    podman("start", f"{PREFIX}-{controller.name}")
    _comes_back(workload, before, [controller.name])


def test_lab_works_again_after_a_reboot_of_its_host(workload: Workload, before: dict[str, Persistent]) -> None:
    """Containers without fixed addresses, and routes of the host that nobody sets again; an `up` that reports success.

    The commands are those of the unit that starts the lab at boot; systemd itself need not run here.
    """
    cluster = workload.cluster
    names = [machine.name for machine in cluster.machines]
    running = ("ps", "--quiet", "--filter", f"label=hardway.lab={STACK}")
    podman("stop", *podman(*running).split())
    assert podman(*running) == ""
    # Nothing has changed in the configuration, so that the engine asks no machine.
    up = toolchain("up")
    assert up.code == 1 and set(up.summary) == {"unchanged"}, up.output
    said = up.output.rstrip().splitlines()[-1]
    assert said.startswith(f"error: The lab {STACK} does not answer: ") and all(name in said for name in names), said
    unit = boot_unit("podman", PREFIX, names, host_routes(cluster.machines))
    commands = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert commands
    for command in commands:
        subprocess.run(shlex.split(command), check=True, capture_output=True, timeout=60)
    _comes_back(workload, before, names)


def test_no_machine_has_a_limit_of_processes_below_the_hosts(cluster: Cluster) -> None:
    """podman's is 2048, and it sets it again at every start: a hundred pods and a program of many threads are more."""
    for machine in cluster.machines:
        limit = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"
        assert cluster.ssh(machine.name, limit).strip() == "max", machine.name


def test_no_pod_address_was_lost(workload: Workload) -> None:
    """Addresses of pods that are gone, never released: after some reboots a worker has none left."""
    cluster = workload.cluster
    for worker in cluster.workers:
        # What the kubelet says of its pods comes after what it has done with them.
        eventually(
            f"addresses of {worker.name} that are those of its pods",
            lambda name=worker.name: _only_used_addresses_are_taken(cluster, name),  # type: ignore[misc]
            seconds=90,
            report=cluster.situation,
        )


def test_nothing_is_to_be_repaired_afterwards(cluster: Cluster) -> None:
    """A lab that works again and that `up` would change."""
    preview = toolchain("preview")
    assert preview.summary.keys() == {"unchanged"}, preview.output


def _comes_back(workload: Workload, before: dict[str, Persistent], restarted: list[str]) -> None:
    """Wait until everything works, and compare the machines with what they were."""
    cluster, began = workload.cluster, datetime.now(UTC)

    def soon(what: str, ask: Callable[[], bool]) -> None:
        eventually(what, ask, seconds=180, report=cluster.situation)

    # A Node that is still called Ready says nothing: its kubelet must have been heard since.
    soon("every node heard of again", lambda: all(renewed > began for renewed in _renewals(cluster)))
    soon("every node Ready", lambda: cluster.kubectl("get", "nodes", "--no-headers").count(" Ready ") == 2)
    workload.wait_until_ready()
    soon("names and services", lambda: _services_work(workload))
    for machine in restarted:
        soon(f"{machine} as it was", lambda machine=machine: _is_as_before(cluster, machine, before))  # type: ignore[misc]


def _is_as_before(cluster: Cluster, machine: str, before: dict[str, Persistent]) -> bool:
    # Asserted, so that the report shows what differs.
    assert persistent(cluster, machine) == before[machine]
    return True


def _only_used_addresses_are_taken(cluster: Cluster, worker: str) -> bool:
    pods = cluster.get("pods", "--all-namespaces")["items"]
    used = {pod["status"].get("podIP") for pod in pods if pod["spec"].get("nodeName") == worker}
    taken = set(cluster.ssh(worker, "cd /var/lib/cni/networks/bridge && ls -d [0-9]*").split())
    assert taken == used
    return True


def _renewals(cluster: Cluster) -> list[datetime]:
    leases = cluster.get("leases", "--namespace", "kube-node-lease")["items"]
    return [datetime.fromisoformat(lease["spec"]["renewTime"]) for lease in leases]


def _services_work(workload: Workload) -> bool:
    web = workload.web
    assert len(web) == len(workload.cluster.workers)
    names = {pod.name for pod in web}
    for pod, other in zip(web, reversed(web), strict=True):
        assert workload.curl(pod, f"http://{other.address}:{PORT}/hostname") == other.name
        assert workload.curl(pod, f"http://{WEB}/hostname") in names
        assert workload.curl(pod, f"http://{ALONE_SERVICE}.{NAMESPACE}.svc.cluster.local/hostname") == ALONE
    for worker in workload.cluster.workers:
        url = f"http://{worker.address}:{NODE_PORT}/hostname"
        with urllib.request.urlopen(url, timeout=3) as answer:
            assert answer.read().decode() in names
    at = f"/api/v1/namespaces/{NAMESPACE}/pods/{web[0].name}:{PORT}/proxy/hostname"
    return workload.cluster.raw(at) == web[0].name


def _host_step(machine: str) -> tuple[str, str]:
    """What the host step of a machine runs, and what it reads: as the command provider does it."""
    step = next(r for r in resources() if r["urn"].endswith(f"remote:Command::host-{machine}"))
    return step["inputs"]["create"], step["inputs"]["stdin"]
