"""The pods that the tests work with: a web server on every worker, and one pod by itself.

Their images are imported from the mirror: no registry needs to be reached.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from config.versions import pins
from lab.cluster import Cluster
from lab.polling import eventually
from toolchain import images
from toolchain.progress import Report

# Host ports are not part of the baseline that Pod Security enforces elsewhere.
NAMESPACE = "lab-checks"
WEB, ALONE = "web", "alone"
# Named unlike its pod, whose own name leads to itself without any Service.
ALONE_SERVICE = "by-itself"
# The container of `alone` that has tar.
TAR = "tar"
PORT, HOST_PORT, NODE_PORT = 8080, 18080, 30080


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod that runs."""

    name: str
    address: str
    node: str


@dataclass(frozen=True, kw_only=True)
class Workload:
    """All of them, on a cluster."""

    cluster: Cluster

    def start(self) -> None:
        """Import the images, apply the manifests and wait until all pods are ready."""
        self.import_images("busybox", "agnhost")
        # A new namespace takes pods once its service account is there, which a controller makes.
        eventually(
            "the API taking the pods",
            self._applied,
            seconds=30,
        )
        self.wait_until_ready()

    def import_images(self, *names: str, feature: str = "") -> None:
        """Have images of versions.yaml on every worker, before any pod needs them.

        A kubelet that does not find one asks a registry, and then not again for a while.

        Args:
            names: the images.
            feature: who needs them, where they are not for every lab; `up` has not brought them into the mirror then.
        """
        if feature:
            with Report() as report:
                images.ensure(report, {feature})
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda worker: self._import_images(worker.name, names), self.cluster.workers))

    def _applied(self) -> bool:
        self.cluster.apply(_namespace(), *_web(len(self.cluster.workers)), *_alone())
        return True

    def wait_until_ready(self, *, seconds: float = 90) -> None:
        """Wait until every pod of the namespace is ready, and every worker has heard of it."""
        wanted = len(self.cluster.workers) + 1
        eventually(
            f"{wanted} pods of {NAMESPACE} ready",
            lambda: len(self._ready()) == wanted,
            seconds=seconds,
            report=self.cluster.situation,
        )
        # kube-proxy and CoreDNS get a Service's pods some time after these are ready.
        eventually(
            "every Service answering on every worker",
            self._served,
            seconds=60,
            report=self.cluster.situation,
        )

    def _served(self) -> bool:
        return all(self.curl(pod, f"http://{name}/hostname") for pod in self.web for name in (WEB, ALONE_SERVICE))

    @property
    def web(self) -> list[Pod]:
        """The pods of the Deployment, one on each worker, in the order of the workers."""
        return [pod for pod in self._ready() if pod.name.startswith(WEB)]

    @property
    def alone(self) -> Pod:
        """The pod that is the only one behind its Service."""
        return next(pod for pod in self._ready() if pod.name == ALONE)

    def exec(self, pod: Pod, *command: str) -> str:
        """What a command in a pod prints."""
        return self.cluster.kubectl("--namespace", NAMESPACE, "exec", pod.name, "--", *command)

    def curl(self, pod: Pod, url: str) -> str:
        """What a web server answers to a pod."""
        return self.exec(pod, "curl", "--silent", "--show-error", "--fail", "--max-time", "5", url)

    def _ready(self) -> list[Pod]:
        items = self.cluster.get("pods", "--namespace", NAMESPACE)["items"]
        ready = [item for item in items if _is_ready(item)]
        pods = [
            Pod(name=item["metadata"]["name"], address=item["status"]["podIP"], node=item["spec"]["nodeName"])
            for item in ready
        ]
        return sorted(pods, key=lambda pod: pod.node)

    def _import_images(self, worker: str, names: Sequence[str]) -> None:
        archives = [f"/opt/mirror/{pins().images[name].archive_path(self.cluster.settings.arch)}" for name in names]
        commands = (f"ctr --namespace k8s.io images import {archive}" for archive in archives)
        self.cluster.ssh(worker, " && ".join(commands))


def image(name: str) -> str:
    """The reference of an image of versions.yaml."""
    return pins().images[name].reference


def _is_ready(item: dict[str, Any]) -> bool:
    conditions = {entry["type"]: entry["status"] for entry in item["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in item["metadata"]


def _namespace() -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def _web(replicas: int) -> list[dict[str, Any]]:
    labels = {"app": WEB}
    spread = {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
        ]
    }
    container = _agnhost(ports=[{"containerPort": PORT, "hostPort": HOST_PORT}])
    pod = {
        "affinity": {"podAntiAffinity": spread},
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": WEB, "namespace": NAMESPACE},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        _service(WEB, selects=WEB, type="NodePort", ports=[{"port": 80, "targetPort": PORT, "nodePort": NODE_PORT}]),
    ]


def _alone() -> list[dict[str, Any]]:
    tar = {
        "name": TAR,
        "image": image("busybox"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "echo serving; exec sleep 1000000"],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": ALONE, "namespace": NAMESPACE, "labels": {"app": ALONE}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [_agnhost(), tar]},
        },
        _service(ALONE_SERVICE, selects=ALONE, ports=[{"port": 80, "targetPort": PORT}]),
    ]


def _agnhost(**more: Any) -> dict[str, Any]:
    return {
        "name": "agnhost",
        "image": image("agnhost"),
        "imagePullPolicy": "IfNotPresent",
        "args": ["netexec", f"--http-port={PORT}"],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
        **more,
    }


def _service(name: str, *, selects: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": selects}, **spec},
    }
