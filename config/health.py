"""What healthy means, in one place: for the readiness steps, the end of `./hardway up`, `status` and drills.

Each of them asks in its own way, and judges the answer by this:

- an API server, and the endpoint, answers API_READY with 200;
- an etcd member serves a read that a quorum confirms, and no alarm is raised: ETCD_MEMBERS asks all of the list, and
  `member_health` in components/etcd_health.sh has one member's own word for the same;
- a leader's lease is held, and renewed within its own duration;
- a Node is Ready;
- a server behind a load balancer gets connections;
- every replica of DNS is available.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

API_READY = "/readyz"
ETCD_MEMBERS = "etcdctl endpoint health --cluster"
NODE_READY = "Ready"
DNS = "coredns"
"""The Deployment in kube-system."""
DNS_LABEL = ("k8s-app", "kube-dns")
"""Of its pods: by which a cluster's DNS is known, whichever program it is."""
# Where a lease does not say.
_LEASE_SECONDS = 15


def has_condition(item: Mapping[str, Any], condition: str = NODE_READY) -> bool:
    """Whether a condition of an object in the API is true."""
    return condition_of(item, condition).get("status") == "True"


def condition_of(item: Mapping[str, Any], condition: str = NODE_READY) -> Mapping[str, Any]:
    """One condition of an object in the API; empty where it has none such."""
    found = item.get("status", {}).get("conditions") or ()
    return next((each for each in found if each["type"] == condition), {})


def lease_age(spec: Mapping[str, Any], now: float) -> float:
    """Seconds since a lease was renewed, by its `spec` and the time in seconds."""
    return now - renewed(spec)


def renewed(spec: Mapping[str, Any]) -> float:
    """When a lease was renewed, by its `spec`: seconds since the epoch."""
    return datetime.fromisoformat(spec["renewTime"]).timestamp()


def is_held(spec: Mapping[str, Any], now: float) -> bool:
    """Whether a lease has a holder that renewed it within its duration."""
    return bool(spec.get("holderIdentity")) and lease_age(spec, now) <= spec.get("leaseDurationSeconds", _LEASE_SECONDS)


def is_up(status: str) -> bool:
    """Whether a server gets connections, by HAProxy's word for it: "UP", or "UP 1/2" where a check has failed."""
    return status.startswith("UP")


def replicas(deployment: Mapping[str, Any]) -> tuple[int, int]:
    """How many replicas of a Deployment are available, and how many there are to be."""
    return deployment["status"].get("availableReplicas", 0), deployment["spec"]["replicas"]


def too_few_replicas(available: int, wanted: int) -> str:
    """What is wrong with the cluster's DNS, by the replicas of its Deployment; empty where all are available."""
    return "" if available == wanted else f"DNS has {available} of {wanted} replicas available"
