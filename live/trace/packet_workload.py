"""The Pod and the Service of a trace that was given none: a client on one worker, a server on another."""

import json
import secrets
import subprocess
from typing import Any

from config import health
from config.machines import Role
from config.versions import pins
from live.cluster import Cluster
from live.waiting import still_missing
from live.workload_tools import import_images, kubectl
from toolchain.errors import ToolchainError

NAMESPACE = "hardway-trace-packet"
CLIENT, SERVER = "client", "web"
_PORT = 8080
_READY_SECONDS, _RULES_SECONDS = 60, 20


class Workload:
    """The objects of one trace; all of them are in one namespace.

    Raises:
        ToolchainError: the lab has no second worker.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        workers = cluster.with_role(Role.WORKER)
        if len(workers) < 2:
            raise ToolchainError(
                f"The lab {cluster.stack.name} has {len(workers)} worker: a trace between two workers needs two. "
                "Name a Pod and a Service of yours: `trace packet POD SERVICE`. Nothing was changed."
            )
        self._client, self._server = workers[0], workers[1]
        # Another name each time: DNS would have the address of the last one for up to 30 s.
        self.service = f"{SERVER}-{secrets.token_hex(3)}"

    def __enter__(self) -> "Workload":
        self.remove()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def start(self) -> None:
        """Have the Pods ready.

        Raises:
            ToolchainError: they are not, within their time.
        """
        for machine in (self._client, self._server):
            import_images(self._cluster, machine, of="the trace")
        self._kubectl("apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", **_all(self)}))
        allowed = self._cluster.allowed(_READY_SECONDS)
        if missing := still_missing(self._missing, allowed, every=0.2):
            raise ToolchainError(f"The Pods of the trace are not ready within {allowed:.0f} s: {', '.join(missing)}.")

    def wait_for_rules(self, space: str, url: str) -> None:
        """Wait until kube-proxy has the Service's rules. Where it never has, the trace shows what is missing.

        Args:
            space: the network namespace of the client on its machine.
            url: of the Service.
        """
        seconds = self._cluster.allowed(_RULES_SECONDS)
        script = (
            f"end=$((SECONDS + {seconds:.0f})); until nsenter --net={space} curl -sf -o /dev/null --max-time 1 {url}; "
            'do [ "$SECONDS" -lt "$end" ] || exit; sleep 0.1; done'
        )
        try:
            self._cluster.ssh(self._client, script, seconds=_RULES_SECONDS + 10)
        except subprocess.TimeoutExpired:
            return

    def remove(self) -> None:
        """Remove everything, also what a run that was killed has left.

        Raises:
            ToolchainError: the API refuses, or it takes too long.
        """
        timeout = f"--timeout={self._cluster.allowed(60):.0f}s"
        self._kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout, seconds=90)

    @property
    def places(self) -> dict[str, str]:
        """Pod -> the worker that it is for."""
        return {CLIENT: self._client.name, SERVER: self._server.name}

    def _missing(self) -> list[str]:
        items = json.loads(self._kubectl("get", "pods", "--namespace", NAMESPACE, "--output", "json"))["items"]
        ready = {item["metadata"]["name"] for item in items if health.has_condition(item)}
        return sorted({CLIENT, SERVER} - ready)

    def _kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        return kubectl(self._cluster, *arguments, stdin=stdin, seconds=seconds)


def _all(workload: Workload) -> dict[str, Any]:
    return {
        "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": workload.service, "namespace": NAMESPACE},
                "spec": {"selector": {"app": SERVER}, "ports": [{"port": 80, "targetPort": _PORT}]},
            },
            _pod(workload, SERVER, ["netexec", f"--http-port={_PORT}"], ready=True),
            _pod(workload, CLIENT, ["pause"], ready=False),
        ]
    }


def _pod(workload: Workload, name: str, arguments: list[str], *, ready: bool) -> dict[str, Any]:
    probe = {"readinessProbe": {"httpGet": {"path": "/healthz", "port": _PORT}, "periodSeconds": 1}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": workload.places[name]},
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": name,
                    "image": pins().images["agnhost"].reference,
                    "imagePullPolicy": "IfNotPresent",
                    "args": arguments,
                    **(probe if ready else {}),
                }
            ],
        },
    }
