"""Load on a lab while it changes: replicas with a budget, a client through the balancer, a writer.

The client and the writer open a connection for each request, as `kubectl` does, and one request follows the other.
They read the kubeconfig again when it is another file: a rotation of keys writes it.
"""

import base64
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from config.versions import pins
from lab.cluster import Cluster
from lab.polling import eventually
from lab.workload import Workload

NAMESPACE = "under-load"
REPLICAS, BUDGET = 6, 5
_PORT = 8080
# Longer than any gap that is permitted: one that is longer is seen as it is.
_SECONDS = 15.0


@dataclass(kw_only=True)
class Figures:
    """What the load has seen.

    Args:
        requests: of the client.
        failed: those that got no answer, and why.
        gap: the longest time between two answers, in seconds.
        gap_ended: when it ended.
        lowest: the lowest number of replicas that were ready.
        lowest_seen: when that was first seen.
        acknowledged: the names that the API said it has written.
        lost: those of them that it does not have in the end.
    """

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    gap: float = 0.0
    gap_ended: str = "-"
    lowest: int = REPLICAS
    lowest_seen: str = "-"
    acknowledged: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def failed_in_thousand(self) -> int:
        """Failed requests for every 1000, rounded down: of several API servers none cuts a request when it restarts."""
        return len(self.failed) * 1000 // max(1, self.requests)

    def __str__(self) -> str:
        return (
            f"{len(self.failed)} of {self.requests} requests failed, "
            f"longest gap {self.gap:.2f} s (until {self.gap_ended}), "
            f"at least {self.lowest} of {REPLICAS} replicas ready ({self.lowest_seen}), "
            f"{len(self.lost)} of {len(self.acknowledged)} acknowledged writes lost"
        )


class Load:
    """Starts with `with`; at its end every acknowledged write is read again."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.figures = Figures()
        self._cluster = cluster
        self._end = threading.Event()
        self._directory = directory
        self._identity = threading.Lock()
        self._read = (0, 0)
        self._client = self._current_client()
        self._threads = [
            threading.Thread(target=self._repeat, args=(each, pause), daemon=True)
            for each, pause in ((self._ask, 0.1), (self._write, 0.05), (self._count, 0.2))
        ]
        self._answered = 0.0
        self._number = 0

    def __enter__(self) -> Figures:
        Workload(cluster=self._cluster).import_images("agnhost")
        # A new namespace takes pods once its service account is there, which a controller makes; that of a load which
        # has just ended takes none until its pods are gone.
        eventually("the API taking the pods", self._applied, seconds=180)
        eventually("the replicas ready", lambda: self._ready() == REPLICAS, seconds=90, report=self._situation)
        self._answered = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self.figures

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(timeout=2 * _SECONDS)
        # A gap that had not ended is one.
        self.figures.gap = max(self.figures.gap, time.monotonic() - self._answered if kind is None else 0.0)
        self._read_again(self.figures)
        self._cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")

    def begin_again(self) -> Figures:
        """Begin with new figures; those so far, after their writes are read again."""
        figures, self.figures = self.figures, Figures()
        self._read_again(figures)
        return figures

    def _read_again(self, figures: Figures) -> None:
        there = {item["metadata"]["name"] for item in self._cluster.get("configmaps", "-n", NAMESPACE)["items"]}
        figures.lost = [name for name in figures.acknowledged if name not in there]

    def _applied(self) -> bool:
        # In a namespace that is being deleted objects that are still there could be changed, and would be deleted.
        phase = self._cluster.kubectl(
            *("get", "namespace", NAMESPACE, "--ignore-not-found", "--output", "jsonpath={.status.phase}")
        )
        if phase == "Terminating":
            return False
        self._cluster.apply(*_objects())
        return True

    def _situation(self) -> str:
        kinds = "namespaces,deployments,replicasets,serviceaccounts"
        found = self._cluster.try_kubectl("get", kinds, "--namespace", NAMESPACE, "--output", "wide")
        return f"{found.stdout}{found.stderr}{self._cluster.situation()}"

    def _repeat(self, once: Callable[[], None], pause: float) -> None:
        while not self._end.is_set():
            started = time.monotonic()
            once()
            self._end.wait(max(0.0, pause - (time.monotonic() - started)))

    def _ask(self) -> None:
        self.figures.requests += 1
        try:
            status, _ = self._request("GET", f"/api/v1/namespaces/{NAMESPACE}")
            assert status == 200, f"status {status}"
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self.figures.failed.append(f"{time.strftime('%H:%M:%S')} {error!r}")
            return
        now = time.monotonic()
        if now - self._answered > self.figures.gap:
            self.figures.gap, self.figures.gap_ended = now - self._answered, time.strftime("%H:%M:%S")
        self._answered = now

    def _write(self) -> None:
        self._number += 1
        name = f"write-{self._number}"
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        with suppress(OSError, http.client.HTTPException):
            status, _ = self._request("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", document)
            if status == 201:
                self.figures.acknowledged.append(name)

    def _count(self) -> None:
        with suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            if (ready := self._ready()) < self.figures.lowest:
                self.figures.lowest, self.figures.lowest_seen = ready, time.strftime("%H:%M:%S")

    def _ready(self) -> int:
        status, answer = self._request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dload")
        if status != 200:
            raise OSError(status)
        return sum(
            "deletionTimestamp" not in pod["metadata"]
            and any(
                each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", [])
            )
            for pod in json.loads(answer)["items"]
        )

    def _current_client(self) -> tuple[str, ssl.SSLContext]:
        with self._identity:
            # It is written beside and renamed.
            file = (self._cluster.directory / "kubeconfig").stat()
            if self._read != (file.st_ino, file.st_mtime_ns):
                self._client = _client_of(self._cluster, self._directory)
                self._read = (file.st_ino, file.st_mtime_ns)
            return self._client

    def _request(self, method: str, path: str, document: dict[str, Any] | None = None) -> tuple[int, bytes]:
        host, context = self._current_client()
        connection = http.client.HTTPSConnection(host, context=context, timeout=_SECONDS)
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _client_of(cluster: Cluster, directory: Path) -> tuple[str, ssl.SSLContext]:
    """The address of the balancer, and the administrator's identity."""
    document = yaml.safe_load((cluster.directory / "kubeconfig").read_text())
    api, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    ca, identity = directory / "ca.pem", directory / "identity.pem"
    ca.write_bytes(base64.b64decode(api["certificate-authority-data"]))
    identity.touch(mode=0o600)
    identity.write_bytes(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(identity)
    return api["server"].removeprefix("https://"), context


def _objects() -> list[dict[str, Any]]:
    labels = {"app": "load"}
    container = {
        "name": "load",
        "image": pins().images["agnhost"].reference,
        "imagePullPolicy": "IfNotPresent",
        "args": ["netexec", f"--http-port={_PORT}"],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": _PORT}, "periodSeconds": 1},
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "load", "namespace": NAMESPACE},
            "spec": {"minAvailable": BUDGET, "selector": {"matchLabels": labels}},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "load", "namespace": NAMESPACE},
            "spec": {
                "replicas": REPLICAS,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        },
    ]
