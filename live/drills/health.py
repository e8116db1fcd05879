"""Whether a cluster is healthy: the conditions before a fault, and again afterwards."""

import csv
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from config import health
from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.drills.probes import OWN_MEMBER, look
from live.drills.workload import Workload
from live.https_api import Api, ApiError
from live.last_lines import Complaint, Logged, report
from live.programs import LEADERS
from live.waiting import still_missing
from toolchain.errors import ToolchainError

_LOOK_EVERY = 0.2
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
        ToolchainError: with all that is still wrong, and the last lines of the logs of what is concerned.
    """
    wait_until_none(
        cluster, lambda: complaints(cluster, api, workload, heard_since), seconds=seconds, what="The cluster"
    )


def wait_until_none(cluster: Cluster, ask: Callable[[], list[Complaint]], *, seconds: float, what: str) -> None:
    """Wait until there is no complaint.

    Args:
        cluster: the lab.
        ask: gives those that there are now.
        seconds: the deadline, before the lab's `timeout_factor`.
        what: is to become healthy.

    Raises:
        ToolchainError: with the complaints that are left, and the last lines of the logs of what is concerned.
    """
    allowed = cluster.allowed(seconds)
    if wrong := still_missing(ask, allowed, every=_LOOK_EVERY):
        raise ToolchainError(f"{what} is not healthy within {allowed:.0f} s:{report(cluster, wrong)}")


def complaints(cluster: Cluster, api: Api, workload: Workload, heard_since: float | None = None) -> list[Complaint]:
    """Everything that is wrong; empty if the cluster is healthy."""
    pods = [lambda: [Complaint(text) for text in workload.missing()]]
    return _answers_of([*_data_path(cluster, api), lambda: list(_objects(cluster, api, heard_since)), *pods])


def data_path_complaints(cluster: Cluster, api: Api) -> list[Complaint]:
    """What is wrong with all that a write passes through: balancers, API servers, etcd."""
    return _answers_of(_data_path(cluster, api))


def _data_path(cluster: Cluster, api: Api) -> list[Callable[[], list[Complaint]]]:
    return [
        lambda: _etcd(cluster),
        *(lambda machine=machine: _api_server(api, machine) for machine in cluster.with_role(Role.CONTROLLER)),
        *(lambda machine=machine: _balancer(cluster, machine) for machine in cluster.with_role(Role.LOAD_BALANCER)),
    ]


def _answers_of(asked: Sequence[Callable[[], list[Complaint]]]) -> list[Complaint]:
    """Ask all side by side; a question without an answer is a complaint, too."""

    def answer(ask: Callable[[], list[Complaint]]) -> list[Complaint]:
        try:
            return ask()
        except (ApiError, ToolchainError) as error:
            return [Complaint(str(error))]
        except subprocess.TimeoutExpired as error:
            return [Complaint(f"a machine has not answered within {error.timeout:.0f} s")]

    with ThreadPoolExecutor(max_workers=len(asked)) as threads:
        return list(dict.fromkeys(wrong for found in threads.map(answer, asked) for wrong in found))


def _etcd(cluster: Cluster) -> list[Complaint]:
    # Through the first member that answers: the one that is asked may be the one that is broken.
    members, said = cluster.etcd_members, ""
    for member in members:
        script = f"{OWN_MEMBER}\n{health.ETCD_MEMBERS} -w json 2>/dev/null; echo; etcdctl alarm list"
        done = cluster.ssh(member, script, seconds=30)
        first, _, alarms = done.stdout.strip().partition("\n")
        if done.returncode == 0 and first:
            found = json.loads(first)
            wrong = [
                Complaint(f"etcd at {each['endpoint']} is not healthy", _etcd_at(members, each["endpoint"]))
                for each in found
                if not each["health"]
            ]
            if len(found) != len(members):
                everywhere = tuple(Logged(each, "etcd") for each in members)
                wrong.append(Complaint(f"etcd has {len(found)} members, not {len(members)}", everywhere))
            return wrong + [Complaint(f"etcd has an alarm: {alarm}") for alarm in alarms.split("\n") if alarm.strip()]
        said = done.stderr.strip()
    return [Complaint(f"no member of etcd answers: {said}", tuple(Logged(each, "etcd") for each in members))]


def _etcd_at(members: Sequence[LiveMachine], endpoint: str) -> tuple[Logged, ...]:
    return tuple(Logged(each, "etcd") for each in members if each.address == urlsplit(endpoint).hostname)


def _api_server(api: Api, machine: LiveMachine) -> list[Complaint]:
    try:
        api.send("GET", health.API_READY, url=f"https://{machine.address}:6443", seconds=3)
        return []
    except ApiError as error:
        logged = Logged(machine, "kube-apiserver")
        return [Complaint(f"the API server of {machine.name} is not ready: {error}", (logged,))]


def _balancer(cluster: Cluster, machine: LiveMachine) -> list[Complaint]:
    haproxy = (Logged(machine, "haproxy"),)
    done = cluster.ssh(machine, "echo 'show stat' | socat -t 3 - UNIX-CONNECT:/run/haproxy/admin.sock", seconds=30)
    if done.returncode != 0:
        return [Complaint(f"HAProxy on {machine.name} does not answer: {done.stderr.strip()}", haproxy)]
    rows = csv.DictReader(done.stdout.lstrip("# ").splitlines())
    servers = [row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")]
    return [
        Complaint(f"{machine.name} has the backend {row['pxname']}/{row['svname']} {row['status']}", haproxy)
        for row in servers
        if not health.is_up(row["status"])
    ]


def _objects(cluster: Cluster, api: Api, heard_since: float | None) -> Iterator[Complaint]:
    view = look(api.get, [machine.name for machine in cluster.with_role(Role.WORKER)])
    for name in LEADERS:
        logged = tuple(Logged(machine, name) for machine in cluster.with_role(Role.CONTROLLER))
        if not view.leaders[name]:
            yield Complaint(f"{name} has no leader", logged)
        elif name not in view.held:
            age = view.at - view.renewed[name]
            yield Complaint(f"the leader of {name} has not renewed its lease for {age:.0f} s", logged)
    for machine in cluster.with_role(Role.CONTROLLER):
        if machine.address not in view.api_servers:
            logged = (Logged(machine, "kube-apiserver"),)
            yield Complaint(f"{machine.name} is not among the endpoints of the Service kubernetes", logged)
    for machine in cluster.with_role(Role.WORKER):
        logged = (Logged(machine, "kubelet"),)
        if machine.name not in view.ready:
            yield Complaint(f"{machine.name} is not Ready", logged)
        elif (heard := view.heard.get(machine.name, 0)) < (heard_since or view.at - _FRESH_NODE):
            yield Complaint(f"the kubelet of {machine.name} was last heard {view.at - heard:.0f} s ago", logged)
    available, wanted = health.replicas(api.get(f"/apis/apps/v1/namespaces/kube-system/deployments/{health.DNS}"))
    if available != wanted:
        yield Complaint(f"DNS has {available} replicas available of {wanted}")
