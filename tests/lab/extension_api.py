"""An extension API server in the lab: Kubernetes' own example, with etcd beside it, registered as an APIService.

Its certificate is of a CA of the test's own, which the APIService names: nothing is left unverified.
Source: https://kubernetes.io/docs/tasks/extend-kubernetes/setup-extension-api-server/
"""

import base64
import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

from lab.certificate_authority import CertificateAuthority
from lab.cluster import Cluster
from lab.polling import eventually
from lab.workload import Workload, image

FEATURE = "extension-api"
"""What versions.yaml calls who needs the images."""
NAMESPACE = "extension-api"
GROUP, VERSION = "wardle.example.com", "v1alpha1"
PATH = f"/apis/{GROUP}/{VERSION}"
FLUNDERS = f"{PATH}/namespaces/{NAMESPACE}/flunders"
LABELS = {"lab-checks": "extension-api"}
"""Everything of it has them."""
HOST, PORT = f"wardle.{NAMESPACE}.svc", 8443

_NAME = "wardle"
_SELECTOR = ",".join("=".join(label) for label in LABELS.items())
_CERTIFICATES, _POLICY, _DATA = "/certificates", "/policy", "/data"
_ACCOUNT = {"kind": "ServiceAccount", "name": _NAME, "namespace": NAMESPACE}
_RBAC = "rbac.authorization.k8s.io"
_API_SERVER_PORT = 6443


@dataclass(frozen=True, kw_only=True)
class ExtensionApi:
    """The extension API server on a cluster.

    Args:
        workload: brings images to the workers.
        ca: signs its certificate.
    """

    workload: Workload
    ca: CertificateAuthority = field(default_factory=lambda: CertificateAuthority("extension-api-ca"))

    @property
    def cluster(self) -> Cluster:
        return self.workload.cluster

    def start(self) -> None:
        """Deploy it, register it, and wait until every API server of the cluster passes requests on to it."""
        self.workload.import_images("etcd", "sample-apiserver", feature=FEATURE)
        self.cluster.apply(*self._rights(), *self._server())
        eventually("the extension API server ready", self._is_ready, seconds=120, report=self.seen)
        self.cluster.apply(self._registration())
        eventually("the APIService Available", self._is_available, seconds=60, report=self.seen)
        for controller in self.cluster.controllers:
            # Each API server gets it by itself.
            eventually(
                f"{PATH} served by {controller.name}",
                lambda at=str(controller.address): self.at_api_server(at).returncode == 0,  # type: ignore[misc]
                seconds=60,
                report=self.seen,
            )

    def remove(self) -> None:
        """Take all of it away; nothing happens to what is gone already."""
        # First what leads to it: without the server behind it nobody can list what a namespace holds.
        self.cluster.kubectl("delete", "apiservice", f"{VERSION}.{GROUP}", "--ignore-not-found")
        everywhere = ("clusterrolebindings", "clusterroles", "certificatesigningrequests")
        self.cluster.kubectl("delete", ",".join(everywhere), "--selector", _SELECTOR)
        self.cluster.kubectl("delete", "rolebindings", "--namespace", "kube-system", "--selector", _SELECTOR)
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=50s")

    def left(self) -> str:
        """The names of all that is still there."""
        kinds = "apiservices,clusterrolebindings,clusterroles,certificatesigningrequests,namespaces"
        return self.cluster.kubectl("get", kinds, "--selector", _SELECTOR, "--output", "name") + self.cluster.kubectl(
            "get", "rolebindings", "--namespace", "kube-system", "--selector", _SELECTOR, "--output", "name"
        )

    def at_api_server(self, address: str) -> subprocess.CompletedProcess[str]:
        """What one API server says of the extension's path."""
        return self.cluster.try_kubectl("--server", f"https://{address}:{_API_SERVER_PORT}", "get", "--raw", PATH)

    def audit(self) -> list[dict[str, Any]]:
        """What the extension API server has noted of requests: as whom it has taken those who asked."""
        said = self.cluster.kubectl("--namespace", NAMESPACE, "logs", _NAME, "--container", _NAME)
        return [json.loads(line) for line in said.splitlines() if line.startswith('{"kind":"Event"')]

    def ask_directly(self, flags: str, *, user: str, group: str, **files: str) -> tuple[int, str]:
        """A request to the server itself, from a controller, that claims to be a user's.

        Args:
            flags: more of curl's; $at is the directory with `files`.
            user: the claimed one, as the API server would say it.
            group: the user's.
            files: name -> content, which stand on the machine meanwhile.

        Returns:
            Status and body of the answer.
        """
        address = self.cluster.get("pod", _NAME, "--namespace", NAMESPACE)["status"]["podIP"]
        there = {"ca": self.ca.certificate, **files}
        script = "\n".join(
            [
                "set -eu; umask 077; at=$(mktemp -d); trap 'rm -r \"$at\"' EXIT",
                *(f"cat >\"$at/{name}\" <<'END'\n{content}END" for name, content in there.items()),
                f"curl -sS --max-time 20 --cacert \"$at/ca\" {flags} -w '\\n%{{http_code}}' \\",
                f"  -H 'X-Remote-User: {user}' -H 'X-Remote-Group: {group}' \\",
                f"  --resolve {HOST}:{PORT}:{address} https://{HOST}:{PORT}{FLUNDERS}",
            ]
        )
        body, _, status = self.cluster.ssh(self.cluster.controller.name, "bash -s", stdin=script).rpartition("\n")
        return int(status), body

    def _is_ready(self) -> bool:
        conditions = self.cluster.get("pod", _NAME, "--namespace", NAMESPACE)["status"].get("conditions", [])
        return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)

    def _is_available(self) -> bool:
        found = self.cluster.get("apiservice", f"{VERSION}.{GROUP}").get("status", {}).get("conditions", [])
        return any(entry["type"] == "Available" and entry["status"] == "True" for entry in found)

    def seen(self) -> str:
        """What helps to see why it does not do what it should."""
        asked = [
            ("get", "apiservice", f"{VERSION}.{GROUP}", "--output", "yaml"),
            ("logs", _NAME, "--namespace", NAMESPACE, "--all-containers", "--tail", "30"),
        ]
        answers = (self.cluster.try_kubectl(*words) for words in asked)
        return "\n".join([*(answer.stdout + answer.stderr for answer in answers), self.cluster.situation()])

    def _rights(self) -> list[dict[str, Any]]:
        """What it may do itself: authenticate and authorize users, and read the trusted front-proxy CA."""
        watched = [
            {"apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"]}
            for group, resources in {
                "": ["namespaces"],
                "admissionregistration.k8s.io": ["*"],
                "flowcontrol.apiserver.k8s.io": ["flowschemas", "prioritylevelconfigurations"],
            }.items()
        ]
        return [
            _object("v1", "Namespace", NAMESPACE, namespace=None),
            _object("v1", "ServiceAccount", _NAME),
            _object(f"{_RBAC}/v1", "ClusterRole", NAMESPACE, namespace=None, rules=watched),
            _binding("ClusterRoleBinding", NAMESPACE, None, "ClusterRole", NAMESPACE),
            _binding("ClusterRoleBinding", f"{NAMESPACE}-delegator", None, "ClusterRole", "system:auth-delegator"),
            _binding("RoleBinding", NAMESPACE, "kube-system", "Role", "extension-apiserver-authentication-reader"),
        ]

    def _server(self) -> list[dict[str, Any]]:
        leaf = self.ca.server(HOST)
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "resources": [{"group": GROUP}]}],
        }
        return [
            _object(
                "v1",
                "Secret",
                _NAME,
                type="kubernetes.io/tls",
                stringData={"tls.crt": leaf.certificate, "tls.key": leaf.key},
            ),
            _object("v1", "ConfigMap", _NAME, data={"audit.json": json.dumps(policy)}),
            _object("v1", "Service", _NAME, spec={"selector": LABELS, "ports": [{"port": 443, "targetPort": PORT}]}),
            _object("v1", "Pod", _NAME, spec=_pod()),
        ]

    def _registration(self) -> dict[str, Any]:
        return _object(
            "apiregistration.k8s.io/v1",
            "APIService",
            f"{VERSION}.{GROUP}",
            namespace=None,
            spec={
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 1000,
                "versionPriority": 10,
                "service": {"name": _NAME, "namespace": NAMESPACE, "port": 443},
                "caBundle": base64.b64encode(self.ca.certificate.encode()).decode(),
            },
        )


def _pod() -> dict[str, Any]:
    etcd = {
        **_container("etcd", "etcd"),
        # Beside the server for as long as that runs, and before it.
        "restartPolicy": "Always",
        "command": ["/usr/local/bin/etcd", f"--data-dir={_DATA}"],
        "startupProbe": {
            "exec": {"command": ["/usr/local/bin/etcdctl", "endpoint", "health"]},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 60,
        },
        "volumeMounts": [{"name": "data", "mountPath": _DATA}],
    }
    server = {
        **_container(_NAME, "sample-apiserver"),
        "args": [
            "--etcd-servers=http://127.0.0.1:2379",
            f"--secure-port={PORT}",
            f"--tls-cert-file={_CERTIFICATES}/tls.crt",
            f"--tls-private-key-file={_CERTIFICATES}/tls.key",
            f"--audit-policy-file={_POLICY}/audit.json",
            "--audit-log-path=-",
        ],
        "readinessProbe": {"httpGet": {"scheme": "HTTPS", "path": "/readyz", "port": PORT}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "certificates", "mountPath": _CERTIFICATES},
            {"name": "policy", "mountPath": _POLICY},
        ],
    }
    return {
        "serviceAccountName": _NAME,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 65532, "runAsNonRoot": True},
        "initContainers": [etcd],
        "containers": [server],
        "volumes": [
            {"name": "data", "emptyDir": {"medium": "Memory"}},
            {"name": "certificates", "secret": {"secretName": _NAME}},
            {"name": "policy", "configMap": {"name": _NAME}},
        ],
    }


def _container(name: str, of: str) -> dict[str, Any]:
    return {"name": name, "image": image(of), "imagePullPolicy": "IfNotPresent"}


def _binding(kind: str, name: str, namespace: str | None, role_kind: str, role: str) -> dict[str, Any]:
    reference = {"apiGroup": _RBAC, "kind": role_kind, "name": role}
    return _object(f"{_RBAC}/v1", kind, name, namespace=namespace, roleRef=reference, subjects=[_ACCOUNT])


def _object(version: str, kind: str, name: str, *, namespace: str | None = NAMESPACE, **rest: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": LABELS, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}
