"""CoreDNS: names for services and pods, at the tenth service address.

Made in the API: two replicas on different workers, their configuration, RBAC objects and Service.

Source: https://github.com/coredns/deployment/tree/master/kubernetes and https://coredns.io/plugins/
"""

from dataclasses import dataclass
from typing import Any

import pulumi

from components.component import Component
from components.machine import Machine
from components.manifests import apply_manifests
from config import health
from config.machine_paths import KUBECTL
from config.settings import Network
from config.versions import pins

_REPLICAS = 2
_NAMESPACE = "kube-system"
_LABELS = dict([health.DNS_LABEL])


@dataclass(frozen=True, kw_only=True)
class DnsArgs:
    """Args:
    controller: whose kubectl applies the manifests.
    network: the service address and the cluster's domain.
    workers: how many there are.
    """

    controller: Machine
    network: Network
    workers: int


class Dns(Component):
    """The cluster's DNS; made once its pods are there, available or not (see readiness.py)."""

    def __init__(self, name: str, args: DnsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Dns", name, opts)
        apply_manifests(name, args.controller, coredns(args.network, workers=args.workers), self.child())
        self.register_outputs({})


def wait_until_available() -> str:
    """The shell lines, for a controller, that wait until both replicas are."""
    rollout = f"{KUBECTL} -n {_NAMESPACE} rollout status deployment/{health.DNS}"
    return f"{rollout} --timeout=$((120 * TIMEOUT_FACTOR))s >/dev/null"


def corefile(network: Network) -> str:
    """CoreDNS's configuration.

    Source: https://coredns.io/manual/configuration/
    """
    return "\n".join(
        [
            ".:53 {",
            "    errors",
            "    health {",
            "        lameduck 5s",
            "    }",
            "    ready",
            f"    kubernetes {network.cluster_domain} in-addr.arpa ip6.arpa {{",
            "        pods insecure",
            "        fallthrough in-addr.arpa ip6.arpa",
            "        ttl 30",
            "    }",
            "    prometheus :9153",
            # An answer at once, if only SERVFAIL, where no name server outside can be reached.
            "    forward . /etc/resolv.conf {",
            "        max_concurrent 1000",
            "        failfast_all_unhealthy_upstreams",
            "    }",
            "    cache 30",
            "    loop",
            "    reload",
            "    loadbalance",
            "}",
            "",
        ]
    )


def coredns(network: Network, *, workers: int) -> list[dict[str, Any]]:
    """All objects, in the order of their dependence."""
    account = {"kind": "ServiceAccount", "name": "coredns", "namespace": _NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata("coredns")},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["services", "pods", "namespaces"],
                    "verbs": ["list", "watch"],
                },
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": ["list", "watch"],
                },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:coredns",
            },
            "subjects": [account],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata("coredns"),
            "data": {"Corefile": corefile(network)},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                **_metadata("kube-dns"),
                "labels": {**_LABELS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
            },
            "spec": {
                "selector": _LABELS,
                "clusterIP": str(network.dns_service),
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                    {"name": "metrics", "port": 9153, "protocol": "TCP"},
                ],
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _metadata("coredns"),
            "spec": {
                "replicas": _REPLICAS,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": _pod(workers)},
            },
        },
    ]


def _pod(workers: int) -> dict[str, Any]:
    return {
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": "coredns",
        # The worker's name servers, not the cluster's own.
        "dnsPolicy": "Default",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                # The second replica waits for the second node to register; a lab with one worker has both there.
                "whenUnsatisfiable": "DoNotSchedule",
                "minDomains": min(workers, _REPLICAS),
                "labelSelector": {"matchLabels": _LABELS},
            }
        ],
        "containers": [
            {
                "name": "coredns",
                "image": pins().images["coredns"].reference,
                "imagePullPolicy": "IfNotPresent",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "ports": [
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                    {"name": "metrics", "containerPort": 9153, "protocol": "TCP"},
                ],
                "resources": {"requests": {"cpu": "50m", "memory": "70Mi"}, "limits": {"memory": "170Mi"}},
                # Asked every second: the lab is ready when its DNS is.
                "readinessProbe": {
                    "httpGet": {"path": "/ready", "port": 8181},
                    "periodSeconds": 1,
                    "failureThreshold": 3,
                },
                "livenessProbe": {
                    "httpGet": {"path": "/health", "port": 8080},
                    "initialDelaySeconds": 60,
                    "failureThreshold": 5,
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
            }
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}]}}
        ],
    }


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": _NAMESPACE, "labels": _LABELS}
