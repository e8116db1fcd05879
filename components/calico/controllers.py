"""calico-kube-controllers: keeps Calico's datastore in step with the cluster.

With the API as the datastore it releases the addresses of removed Nodes. With etcd it also copies there what
Felix cannot read from the API then: policies, namespaces, service accounts, the labels of pods and nodes.

Source: https://docs.tigera.io/calico/latest/reference/kube-controllers/configuration
"""

from collections.abc import Mapping
from typing import Any

from components.calico import datastore
from components.calico.rbac import CONTROLLERS, NAMESPACE
from config.calico import CalicoSettings
from config.versions import pins

_LABELS = {"k8s-app": CONTROLLERS}


def deployment(settings: CalicoSettings, known: Mapping[str, str]) -> dict[str, Any]:
    """The Deployment; `known` are the variables that name the datastore."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": CONTROLLERS, "namespace": NAMESPACE, "labels": _LABELS},
        "spec": {
            # Two would get into each other's way: they elect no leader.
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": _pod(settings, known)},
        },
    }


def _pod(settings: CalicoSettings, known: Mapping[str, str]) -> dict[str, Any]:
    in_etcd = settings.datastore == "etcd"
    enabled = "policy,namespace,serviceaccount,workloadendpoint,node" if in_etcd else "node"
    pod: dict[str, Any] = {
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": CONTROLLERS,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        "containers": [
            {
                "name": CONTROLLERS,
                "image": pins().images[CONTROLLERS].reference,
                "imagePullPolicy": "IfNotPresent",
                "env": [
                    {"name": variable, "value": value}
                    for variable, value in {**known, "ENABLED_CONTROLLERS": enabled}.items()
                ],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "readinessProbe": {**_probe("-r"), "periodSeconds": 2},
                "livenessProbe": {**_probe("-l"), "initialDelaySeconds": 10, "failureThreshold": 6},
            }
        ],
    }
    if in_etcd:
        # No policy may cut it off from where policies come from; its key on the worker is root's alone.
        pod["hostNetwork"] = True
        pod["securityContext"] = {"runAsUser": 0}
        pod["containers"][0]["volumeMounts"] = [{"name": "identity", "mountPath": datastore.PKI, "readOnly": True}]
        pod["volumes"] = [{"name": "identity", "hostPath": {"path": datastore.PKI, "type": "Directory"}}]
    return pod


def _probe(flag: str) -> dict[str, Any]:
    return {"exec": {"command": ["/usr/bin/check-status", flag]}, "timeoutSeconds": 10}
