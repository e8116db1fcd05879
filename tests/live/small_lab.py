"""A lab of three controllers that exists on paper, and what its machines would say."""

import json
import signal
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.machines import Role
from live import cluster as live_cluster
from live import search
from live.cluster import Cluster, LiveMachine
from live.probe import Answer, Probe, expected_pods, expected_units, questions
from toolchain import paths, stack
from toolchain.stack import Stack

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
ADDRESSES = {
    "load-balancer-0": (Role.LOAD_BALANCER, "10.0.0.5"),
    "controller-0": (Role.CONTROLLER, "10.0.0.10"),
    "controller-1": (Role.CONTROLLER, "10.0.0.11"),
    "controller-2": (Role.CONTROLLER, "10.0.0.12"),
    "worker-0": (Role.WORKER, "10.0.0.20"),
}
ROUTES = "10.200.0.0/24 10.0.0.20 10.200.0.0 via 10.0.0.20 dev eth0 src 10.0.0.10 uid 0"
IDS = {"controller-0": 161, "controller-1": 162, "controller-2": 163}
CERTIFICATES = [{"name": "pki-admin", "subject": "CN=admin", "not_after": "2027-11-21T12:00:00Z"}]


def cluster(directory: Path, *, controllers: int = 3, features: Collection[str] = ()) -> Cluster:
    """The lab, with this many controllers, and what it has that not every lab has."""
    names = [name for name in ADDRESSES if not name.startswith("controller") or int(name[-1]) < controllers]
    described = Stack(
        name="paper",
        project="toy",
        settings_file=directory / "Pulumi.paper.yaml",
        substrate="containers",
        engine="podman",
        kubernetes="1.36.4",
        features=frozenset(features),
    )
    return Cluster(
        stack=described,
        endpoint="https://10.0.0.5:6443",
        machines=[
            LiveMachine(name=name, roles=frozenset({ADDRESSES[name][0]}), address=ADDRESSES[name][1]) for name in names
        ],
    )


def own_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of Pulumi's state of the test's own: commands that change a lab write a lock there."""
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}/backend")
    return tmp_path / "backend"


def searched(directory: Path, monkeypatch: pytest.MonkeyPatch, api: object) -> Cluster:
    """The lab as the search for faults finds it: with an API, and without machines."""
    monkeypatch.setattr(paths, "state", lambda: directory)
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{directory}/backend")
    made = cluster(directory)
    made.stack.directory.mkdir()
    monkeypatch.setattr(live_cluster, "find", lambda _, **given: made)
    monkeypatch.setattr(stack, "read", lambda name: made.stack)
    monkeypatch.setattr(search, "Api", lambda cluster: api)
    monkeypatch.setattr(search, "check_packet_filter", lambda cluster, machines: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return made


def well(lab: Cluster) -> list[Probe]:
    """What all machines say in a healthy lab; controller-1 leads."""
    return [Probe(machine=each, answers=_answers(lab, each)) for each in lab.machines]


def dead(probes: Sequence[Probe], *names: str) -> list[Probe]:
    """The same, but these machines do not answer."""
    return [
        Probe(machine=each.machine, missing="No route to host") if each.machine.name in names else each
        for each in probes
    ]


def saying(probes: Sequence[Probe], machine: str, question: str, answer: Answer) -> list[Probe]:
    """The same, but one answer is another."""
    return [
        replace(each, answers={**each.answers, question: answer}) if each.machine.name == machine else each
        for each in probes
    ]


def ok(out: str) -> Answer:
    """An answer."""
    return Answer(status=0, out=out)


def member_state(name: str, *, leader: str = "controller-1", **more: Any) -> str:
    """What `etcdctl endpoint status -w json` says of a member."""
    state = {
        "header": {"cluster_id": 193, "member_id": IDS[name], "revision": 1000 + IDS[name], "raft_term": 4},
        "version": "3.6.14",
        "dbSize": 4096000,
        "dbSizeInUse": 2048000,
        "leader": IDS.get(leader, 0),
        "raftIndex": 2000,
        "raftTerm": 4,
        "raftAppliedIndex": 1990 + IDS[name],
        **more,
    }
    return json.dumps([{"Endpoint": "https://127.0.0.1:2379", "Status": state}])


def member_hash(hash_: int = 77, *, compacted: int = 900) -> str:
    """What `etcdctl endpoint hashkv --rev=N -w json` says of a member."""
    told = {"header": {"cluster_id": 193}, "hash": hash_, "compact_revision": compacted, "hash_revision": 1161}
    return json.dumps([{"Endpoint": "https://127.0.0.1:2379", "HashKV": told}])


def dns_pod(address: str, on: str) -> dict[str, Any]:
    """A pod of DNS that is Ready."""
    status = {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}
    labels = {"k8s-app": "kube-dns"}
    return {
        "kind": "Pod",
        "metadata": {"name": f"dns-{on}", "labels": labels},
        "spec": {"nodeName": on},
        "status": status,
    }


def member_list(*names: str, **more: int) -> str:
    """What `etcdctl member list -w json` says."""
    ids = {**{name: IDS[name] for name in names}, **more}
    return json.dumps({"members": [{"ID": id_, "name": name} for name, id_ in ids.items()]})


def lease(name: str, holder: str, age: float) -> dict[str, Any]:
    """A lease, renewed so many seconds ago."""
    renewed = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": f"{holder}_8a4e-77", "renewTime": renewed, "leaseDurationSeconds": 15}
    return {"kind": "Lease", "metadata": {"name": name}, "spec": spec}


def node(name: str, *, ready: str = "True", **spec: Any) -> dict[str, Any]:
    """A Node."""
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-21T11:00:00Z", "message": "PLEG"}
    status = {"conditions": [condition], "nodeInfo": {"kubeletVersion": "v1.36.4"}}
    return {"kind": "Node", "metadata": {"name": name}, "spec": spec, "status": status}


def issued(**ends: str) -> str:
    """What `kubeadm certs check-expiration -o json` says; of each name the end, or nothing where it is not there."""
    rows = [{"name": name, "expirationDate": end, "caName": "ca", "missing": not end} for name, end in ends.items()]
    return json.dumps({"kind": "CertificateExpirationInfo", "certificates": rows})


def dns(available: int, replicas: int = 2) -> dict[str, Any]:
    """The Deployment of the cluster's DNS."""
    return {
        "kind": "Deployment",
        "metadata": {"name": "coredns"},
        "spec": {"replicas": replicas},
        "status": {"availableReplicas": available} if available else {},
    }


def objects(*items: dict[str, Any]) -> str:
    """What kubectl says of nodes and leases, and of a DNS that is available unless another is among them."""
    given = any(item["kind"] == "Deployment" for item in items)
    return json.dumps({"items": [*items, *([] if given else [dns(2)])]})


HEALTHY_OBJECTS = objects(
    node("worker-0"),
    lease("kube-controller-manager", "controller-2", 1.5),
    lease("kube-scheduler", "controller-0", 2.0),
)


def _answers(lab: Cluster, machine: LiveMachine) -> dict[str, Answer]:
    said = {
        "clock": f"{NOW.timestamp()}",
        "units": "\n".join("active" for _ in expected_units(lab, machine)),
        "pods": "\n".join("active" for _ in expected_pods(lab, machine)),
        "failed": "",
        "addresses": f"2: eth0    inet {machine.address}/24 brd 10.0.0.255 scope global eth0",
        "health": '{"health":"true","reason":""}',
        "members": member_list(*(each.name for each in lab.etcd_members)),
        "readyz": "[+]ping ok\nreadyz check passed\n\n200",
        "objects": HEALTHY_OBJECTS,
        # Tests put Nodes among the objects.
        "nodes": '[{"metadata": {}, "items": []}]',
        "certificates": issued(apiserver="2027-11-21T12:00:00Z"),
        "backends": "# pxname,svname,status,check_status,last_chk\n"
        "api-servers,FRONTEND,OPEN,,\n"
        "api-servers,controller-0,UP,L7OK,\n"
        "api-servers,BACKEND,UP,,",
    }
    if machine in lab.etcd_members:
        said["etcd"] = member_state(machine.name, leader="controller-1" if len(lab.etcd_members) > 1 else machine.name)
    said |= {"firewall": "", "routes": ROUTES, "snapshot": ""}
    asked = [*questions(lab, machine)]
    if machine in lab.etcd_members and len(lab.etcd_members) > 1:
        said["hash"] = member_hash()
        asked.append("hash")
    return {question: ok(said[question]) for question in asked}
