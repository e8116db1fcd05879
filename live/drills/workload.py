"""What the drills have in the cluster: a web server on every worker, a Service before them, and a client in a pod.

All of it stands in one namespace. The image is imported from the mirror's archive where there is one, as no registry
may be reached; it stays on the workers, as every image does.
"""

import json
from typing import Any

from config import health
from config.machines import Role
from config.versions import pins
from live.cluster import Cluster, LiveMachine
from live.waiting import still_missing
from live.workload_tools import import_images, kubectl
from toolchain.errors import ToolchainError

NAMESPACE = "hardway-drills"
_WEB, _CLIENT = "web", "client"
_PORT = 8080
_READY_SECONDS = 90

# One line for each try: what, when it began and ended, OK or what was wrong. It calls the Service by its address and
# asks for its name separately, so that it can be told which of the two does not work. A file, not standard output:
# that goes through containerd, which is killed, too.
_LOOP = """
export LC_ALL=C
trap 'exit 0' TERM
log() { echo "$1 $2 $EPOCHREALTIME ${3//$'\\n'/ }" >>/log/client; }
while :; do
  began=$EPOCHREALTIME
  said=$(curl -sS --fail --max-time $TRY_SECONDS "http://$WEB_SERVICE_HOST/hostname" 2>&1) && said="OK $said"
  log service $began "$said"
  began=$EPOCHREALTIME
  said=$(dig +search +short +time=$TRY_SECONDS +tries=1 web 2>&1)
  [ "$said" != "$WEB_SERVICE_HOST" ] || said=OK
  log dns $began "${said:-no answer}"
  sleep 0.2
done
"""


class Workload:
    """The pods of the drills on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._workers = cluster.with_role(Role.WORKER)

    @property
    def client_on(self) -> LiveMachine:
        """The worker with the client."""
        return self._workers[0]

    def start(self) -> None:
        """Have everything there, and ready.

        Raises:
            ToolchainError: it is not, within its time.
        """
        for worker in self._workers:
            import_images(self._cluster, worker, of="the drills")
        self._kubectl("apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", **self._all()}))
        allowed = self._cluster.allowed(_READY_SECONDS)
        if missing := still_missing(self.missing, allowed):
            raise ToolchainError(f"The drills' pods are not ready within {allowed:.0f} s: {'; '.join(missing)}.")

    def remove(self) -> None:
        """Take everything away, also what a run that was killed has left.

        Raises:
            ToolchainError: the API refuses, or it takes too long.
        """
        timeout = f"--timeout={self._cluster.allowed(90):.0f}s"
        self._kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout, seconds=120)

    def missing(self) -> list[str]:
        """The pods that are not there, or not ready."""
        items = json.loads(self._kubectl("get", "pods", "--namespace", NAMESPACE, "--output", "json"))["items"]
        ready = {(item["metadata"]["labels"]["app"], item["spec"].get("nodeName")) for item in items if _is_ready(item)}
        wanted = [(_WEB, worker.name) for worker in self._workers] + [(_CLIENT, self.client_on.name)]
        return [f"no ready pod {app} on {node}" for app, node in wanted if (app, node) not in ready]

    def log(self) -> str:
        """The path of the client's log on its machine."""
        uid = self._kubectl("get", "pod", _CLIENT, "--namespace", NAMESPACE, "--output", "jsonpath={.metadata.uid}")
        return f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/log/client"

    def _kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        return kubectl(self._cluster, *arguments, stdin=stdin, seconds=seconds)

    def _all(self) -> dict[str, Any]:
        web = {"app": _WEB}
        return {
            "items": [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
                # Before the client: its address is in the environment of pods that start later.
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": _WEB, "namespace": NAMESPACE},
                    "spec": {"selector": web, "ports": [{"port": 80, "targetPort": _PORT}]},
                },
                {
                    "apiVersion": "apps/v1",
                    "kind": "DaemonSet",
                    "metadata": {"name": _WEB, "namespace": NAMESPACE},
                    "spec": {
                        "selector": {"matchLabels": web},
                        "template": {"metadata": {"labels": web}, "spec": _server()},
                    },
                },
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": _CLIENT, "namespace": NAMESPACE, "labels": {"app": _CLIENT}},
                    "spec": {
                        "nodeSelector": {"kubernetes.io/hostname": self.client_on.name},
                        "terminationGracePeriodSeconds": 0,
                        "volumes": [{"name": "log", "emptyDir": {}}],
                        "containers": [
                            {
                                **_agnhost(_CLIENT),
                                "command": ["bash", "-c", _LOOP],
                                "env": [{"name": "TRY_SECONDS", "value": str(self._cluster.timeout_factor)}],
                                "volumeMounts": [{"name": "log", "mountPath": "/log"}],
                            }
                        ],
                    },
                },
            ]
        }


def _server() -> dict[str, Any]:
    probe = {"httpGet": {"path": "/healthz", "port": _PORT}, "periodSeconds": 1}
    container = {**_agnhost(_WEB), "args": ["netexec", f"--http-port={_PORT}"], "readinessProbe": probe}
    return {"terminationGracePeriodSeconds": 0, "containers": [container]}


def _agnhost(name: str) -> dict[str, Any]:
    return {"name": name, "image": pins().images["agnhost"].reference, "imagePullPolicy": "IfNotPresent"}


def _is_ready(item: dict[str, Any]) -> bool:
    return health.has_condition(item) and "deletionTimestamp" not in item["metadata"]
