"""calico-node: Felix and its companions, on every worker.

In the host's network, and on nodes that are not Ready yet, since it is what makes them so. No BIRD, and so no BGP: the
backend `vxlan` means that, also where no pool uses VXLAN.

Source: https://docs.tigera.io/calico/latest/reference/configure-calico-node and
https://docs.tigera.io/calico/latest/reference/felix/configuration
"""

from collections.abc import Mapping
from typing import Any

from components.calico import datastore
from components.calico.rbac import NAMESPACE, NODE
from config.calico import CalicoSettings
from config.versions import pins

HEALTH_PORT = 9099
"""Felix's own, on localhost."""
_LABELS = {"k8s-app": NODE}
# What it shares with the host: its state, which the CNI plugin reads, the lock of iptables, and kernel modules.
_SHARED = {
    "run": ("/var/run/calico", "DirectoryOrCreate"),
    "state": ("/var/lib/calico", "DirectoryOrCreate"),
    "lock": ("/run/xtables.lock", "FileOrCreate"),
    "modules": ("/lib/modules", ""),
}


def daemon_set(settings: CalicoSettings, known: Mapping[str, str]) -> dict[str, Any]:
    """The DaemonSet; `known` are the variables that name the datastore."""
    metadata = {"name": NODE, "namespace": NAMESPACE, "labels": _LABELS}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": _LABELS},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": _LABELS}, "spec": _pod(settings, known)},
        },
    }


def _pod(settings: CalicoSettings, known: Mapping[str, str]) -> dict[str, Any]:
    shared = dict(_SHARED)
    if settings.datastore == "etcd":
        shared["identity"] = (datastore.PKI, "Directory")
    name = {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    return {
        "hostNetwork": True,
        "priorityClassName": "system-node-critical",
        "serviceAccountName": NODE,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"effect": effect, "operator": "Exists"} for effect in ("NoSchedule", "NoExecute")],
        # It has nothing to finish, and what it leaves in the kernel goes on working until the next one is there.
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": NODE,
                "image": pins().images[NODE].reference,
                "imagePullPolicy": "IfNotPresent",
                "env": [
                    *({"name": variable, "value": value} for variable, value in {**known, **_variables()}.items()),
                    {"name": "NODENAME", **name},
                    # Who of the cluster's nodes it is, for kube-controllers.
                    {"name": "CALICO_K8S_NODE_REF", **name},
                ],
                "securityContext": {"privileged": True},
                "resources": {"requests": {"cpu": "100m"}},
                "readinessProbe": {**_probe("-felix-ready"), "periodSeconds": 2},
                "livenessProbe": {**_probe("-felix-live"), "initialDelaySeconds": 10, "failureThreshold": 6},
                "volumeMounts": [
                    {"name": volume, "mountPath": path, "readOnly": volume in ("modules", "identity")}
                    for volume, (path, _) in shared.items()
                ],
            }
        ],
        "volumes": [
            {"name": volume, "hostPath": {"path": path, "type": kind}} for volume, (path, kind) in shared.items()
        ],
    }


def _variables() -> dict[str, str]:
    return {
        "WAIT_FOR_DATASTORE": "true",
        "CALICO_NETWORKING_BACKEND": "vxlan",
        "CLUSTER_TYPE": "k8s",
        # The address that the kubelet was told, whichever others the machine has.
        "IP": "autodetect",
        "IP_AUTODETECTION_METHOD": "kubernetes-internal-ip",
        # The pools are the lab's (pools.py), and so is the plugin's kubeconfig.
        "NO_DEFAULT_POOLS": "true",
        "CALICO_MANAGE_CNI": "false",
        # So that `kubectl logs` has it.
        "CALICO_DISABLE_FILE_LOGGING": "true",
        "FELIX_IPV6SUPPORT": "false",
        "FELIX_HEALTHENABLED": "true",
        "FELIX_HEALTHPORT": str(HEALTH_PORT),
        # Pods reach their own worker as they reach the others.
        "FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACCEPT",
        # It would tell Calico's makers how many nodes there are.
        "FELIX_USAGEREPORTINGENABLED": "false",
    }


def _probe(flag: str) -> dict[str, Any]:
    return {"exec": {"command": ["/bin/calico-node", flag]}, "timeoutSeconds": 10}
