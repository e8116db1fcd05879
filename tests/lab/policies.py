"""Network policies: what lab 1 limits flows by, each with the flow that it closes or opens.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from typing import Any

from lab.workload import NAMESPACE, PORT, WEB

ROLE = {"role": "client"}
"""The label of pods that are let in."""


def default_deny() -> dict[str, Any]:
    """Nothing in, nothing out, for every pod of the namespace."""
    return _policy("default-deny", {}, policyTypes=["Ingress", "Egress"])


def allow_dns() -> dict[str, Any]:
    """Names, for every pod."""
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return _policy("allow-dns", {}, policyTypes=["Egress"], egress=[{"to": [dns], "ports": ports}])


def allow_by_label() -> list[dict[str, Any]]:
    """The web servers, for pods with the label; both ends have to agree."""
    web, client = {"matchLabels": {"app": WEB}}, {"matchLabels": ROLE}
    ports = [{"protocol": "TCP", "port": PORT}]
    return [
        _policy(
            "web-from-clients",
            web,
            policyTypes=["Ingress"],
            ingress=[{"from": [{"podSelector": client}], "ports": ports}],
        ),
        _policy(
            "clients-to-web", client, policyTypes=["Egress"], egress=[{"to": [{"podSelector": web}], "ports": ports}]
        ),
    ]


def allow_range(cidr: str) -> dict[str, Any]:
    """A range of addresses outside of the cluster, for pods with the label."""
    return _policy(
        "clients-to-range",
        {"matchLabels": ROLE},
        policyTypes=["Egress"],
        egress=[{"to": [{"ipBlock": {"cidr": cidr}}]}],
    )


def _policy(name: str, pods: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"podSelector": pods, **spec},
    }
