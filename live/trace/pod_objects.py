"""The Pod that `hardway trace pod` runs, and its Service.

Its image is the one of the cluster's DNS: every node has it, so nothing is pulled. As CoreDNS it answers HTTP on a
port, and says in its log when it gets SIGTERM. Its configuration is an annotation of the Pod, which it reads as a file:
so no other object is needed. It satisfies the Pod Security Standard `restricted`.
"""

from typing import Any

from config.versions import pins

NAMESPACE = "default"
LABEL, VALUE = "app.kubernetes.io/managed-by", "hardway-trace"
SELECTOR = f"{LABEL}={VALUE}"
"""What this command has created, also in a run that was killed."""
PORT, PATH = 80, "/health"
CONTAINER = "web"
_TARGET = 8080
_CONFIGURATION = "hardway/corefile"
# A port for DNS that needs no privileges.
_COREFILE = f".:5353 {{\n  health :{_TARGET}\n  whoami\n}}\n"


def pod(name: str) -> dict[str, Any]:
    """The Pod, as it is sent."""
    directory = "/etc/coredns"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {LABEL: VALUE, "app": name},
            "annotations": {_CONFIGURATION: _COREFILE},
        },
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": CONTAINER,
                    "image": pins().images["coredns"].reference,
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["-conf", f"{directory}/Corefile"],
                    # The program's file has this capability, and cannot be started without.
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                    },
                    "readinessProbe": {"httpGet": {"path": PATH, "port": _TARGET}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "configuration", "mountPath": directory, "readOnly": True}],
                }
            ],
            "volumes": [
                {
                    "name": "configuration",
                    "downwardAPI": {
                        "items": [
                            {
                                "path": "Corefile",
                                "fieldRef": {"fieldPath": f"metadata.annotations['{_CONFIGURATION}']"},
                            }
                        ]
                    },
                }
            ],
        },
    }


def service(name: str) -> dict[str, Any]:
    """The Service before it, of the same name: its EndpointSlice and the rules are found by it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {LABEL: VALUE}},
        "spec": {"selector": {"app": name}, "ports": [{"port": PORT, "targetPort": _TARGET}]},
    }
