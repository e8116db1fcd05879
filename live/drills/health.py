"""Whether a cluster is healthy: the conditions before a fault, and again afterwards."""

import csv
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from config import health
from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.drills.api import Api, ApiError, ask
from live.drills.probes import OWN_MEMBER, look
from live.drills.workload import Workload
from live.programs import LEADERS
from toolchain.errors import ToolchainError

_FRESH_NODE = 40.0
"""Seconds for which a kubelet may not be heard: it renews its lease every 10 s, and the lease holds for 40."""


def wait_until_well(
    cluster: Cluster, api: Api, workload: Workload, *, seconds: float, heard_since: float | None = None
) -> None:
    """Wait until nothing is wrong any more.

    Args:
        cluster: the lab.
        api: its API.
        workload: the drills' pods, which must be ready, too.
        seconds: the deadline, before the lab's `timeout_factor`.
        heard_since: kubelets must have been heard since then; a Node that is only still called Ready does not count.

    Raises:
        ToolchainError: with all that is still wrong.
    """
    allowed = cluster.allowed(seconds)
    deadline = time.monotonic() + allowed
    while wrong := complaints(cluster, api, workload, heard_since):
        if time.monotonic() > deadline:
            raise ToolchainError(f"The cluster is not healthy within {allowed:.0f} s:\n  " + "\n  ".join(wrong))
        time.sleep(0.5)


def complaints(cluster: Cluster, api: Api, workload: Workload, heard_since: float | None = None) -> list[str]:
    """Everything that is wrong, a sentence each; empty if the cluster is healthy."""
    return _answers_of([*_data_path(cluster, api), lambda: list(_objects(cluster, api, heard_since)), workload.missing])


def data_path_complaints(cluster: Cluster, api: Api) -> list[str]:
    """What is wrong with all that a write passes through: balancers, API servers, etcd."""
    return _answers_of(_data_path(cluster, api))


def _data_path(cluster: Cluster, api: Api) -> list[Callable[[], list[str]]]:
    return [
        lambda: _etcd(cluster),
        *(lambda machine=machine: _api_server(api, machine) for machine in cluster.with_role(Role.CONTROLLER)),
        *(lambda machine=machine: _balancer(cluster, machine) for machine in cluster.with_role(Role.LOAD_BALANCER)),
    ]


def _answers_of(asked: Sequence[Callable[[], list[str]]]) -> list[str]:
    """Ask all side by side; a question without an answer is a complaint, too."""

    def answer(ask: Callable[[], list[str]]) -> list[str]:
        try:
            return ask()
        except (ApiError, ToolchainError) as error:
            return [str(error)]
        except subprocess.TimeoutExpired as error:
            return [f"a machine has not answered within {error.timeout:.0f} s"]

    with ThreadPoolExecutor(max_workers=len(asked)) as threads:
        return list(dict.fromkeys(wrong for found in threads.map(answer, asked) for wrong in found))


def _etcd(cluster: Cluster) -> list[str]:
    # Through the first member that answers: the one that is asked may be the one that is broken.
    members, said = cluster.etcd_members, ""
    for member in members:
        script = f"{OWN_MEMBER}\n{health.ETCD_MEMBERS} -w json 2>/dev/null; echo; etcdctl alarm list"
        done = cluster.ssh(member, script, seconds=30)
        first, _, alarms = done.stdout.strip().partition("\n")
        if done.returncode == 0 and first:
            found = json.loads(first)
            wrong = [f"etcd at {each['endpoint']} is not healthy" for each in found if not each["health"]]
            if len(found) != len(members):
                wrong.append(f"etcd has {len(found)} members, not {len(members)}")
            return wrong + [f"etcd has an alarm: {alarm}" for alarm in alarms.split("\n") if alarm.strip()]
        said = done.stderr.strip()
    return [f"no member of etcd answers: {said}"]


def _api_server(api: Api, machine: LiveMachine) -> list[str]:
    connection = api.connection(f"https://{machine.address}:6443", seconds=3)
    try:
        ask(connection, "GET", health.API_READY)
        return []
    except ApiError as error:
        return [f"the API server of {machine.name} is not ready: {error}"]
    finally:
        connection.close()


def _balancer(cluster: Cluster, machine: LiveMachine) -> list[str]:
    done = cluster.ssh(machine, "echo 'show stat' | socat -t 3 - UNIX-CONNECT:/run/haproxy/admin.sock", seconds=30)
    if done.returncode != 0:
        return [f"HAProxy on {machine.name} does not answer: {done.stderr.strip()}"]
    rows = csv.DictReader(done.stdout.lstrip("# ").splitlines())
    servers = [row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")]
    return [
        f"{machine.name} has the backend {row['pxname']}/{row['svname']} {row['status']}"
        for row in servers
        if not health.is_up(row["status"])
    ]


def _objects(cluster: Cluster, api: Api, heard_since: float | None) -> Iterator[str]:
    view = look(api.get)
    for name in LEADERS:
        if not view.leaders[name]:
            yield f"{name} has no leader"
        elif name not in view.held:
            yield f"the leader of {name} has not renewed its lease for {view.at - view.renewed[name]:.0f} s"
    for machine in cluster.with_role(Role.CONTROLLER):
        if machine.address not in view.api_servers:
            yield f"{machine.name} is not among the endpoints of the Service kubernetes"
    for machine in cluster.with_role(Role.WORKER):
        if machine.name not in view.ready:
            yield f"{machine.name} is not Ready"
        elif (heard := view.heard.get(machine.name, 0)) < (heard_since or view.at - _FRESH_NODE):
            yield f"the kubelet of {machine.name} was last heard {view.at - heard:.0f} s ago"
    available, wanted = health.replicas(api.get(f"/apis/apps/v1/namespaces/kube-system/deployments/{health.DNS}"))
    if available != wanted:
        yield f"DNS has {available} replicas available of {wanted}"
