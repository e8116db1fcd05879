"""The part of an API server that workers use for their turns: Nodes, pods, evictions and ConfigMaps, over HTTP."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TURNS = "/api/v1/namespaces/kube-node-lease/configmaps"
READY = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:10Z", "message": "kubelet is ready"}


class NodeApi:
    """What it has, and what it was asked.

    Args:
        server: the HTTP server that is to be this.
    """

    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.lock = threading.Lock()
        self.nodes: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.turns: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.refused = False
        self.evicts: Callable[[str], bool] = lambda pod: True
        """Whether the budgets permit it now."""

    def node(self, name: str, *, cordoned: bool = False, ready: str = "True") -> None:
        """Add a worker's Node."""
        self.nodes[name] = {
            "kind": "Node",
            "metadata": {"name": name, "uid": f"uid-{name}", "annotations": {"other": "kept"}},
            "spec": {"podCIDR": "10.0.0.0/24", **({"unschedulable": True} if cordoned else {})},
            "status": {
                "conditions": [{**READY, "type": "DiskPressure", "status": "False"}, {**READY, "status": ready}]
            },
        }

    def pod(self, name: str, node: str, owner: str | None = "ReplicaSet") -> None:
        """Add a pod with a controller, or without."""
        owners = {"ownerReferences": [{"apiVersion": "apps/v1", "kind": owner, "name": "x"}]} if owner else {}
        metadata = {"name": name, "namespace": "web", **owners}
        self.pods[name] = {"metadata": metadata, "spec": {"nodeName": node}}

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and document."""
        path, _, query = path.partition("?")
        *_, name = path.split("/")
        self.asked.append(f"{method} {path}")
        if self.refused and path.startswith(TURNS):
            return 403, {"kind": "Status", "message": "configmaps is forbidden"}
        if path.endswith("/eviction"):
            pod = body["metadata"]["name"]
            if not self.evicts(pod):
                return 429, {"kind": "Status", "message": "it would violate the pod's disruption budget."}
            self.pods.pop(pod, None)
            return 201, {"kind": "Status"}
        if path == "/api/v1/pods":
            there = [each for each in self.pods.values() if f"spec.nodeName%3D{each['spec']['nodeName']}&" in query]
            return 200, {"kind": "List", "items": [{"metadata": each["metadata"]} for each in there]}
        if path == TURNS:
            if body["metadata"]["name"] in self.turns:
                return 409, {"kind": "Status"}
            self.turns[body["metadata"]["name"]] = body
            return 201, body
        found = (self.nodes if "/nodes/" in path else self.turns).get(name)
        if found is None:
            return 404, {"kind": "Status", "details": {"name": name}}
        if method == "DELETE":
            del self.turns[name]
        if method == "PATCH":
            _merge(found, body)
        return 200, found


def _merge(document: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, dict):
            _merge(document.setdefault(key, {}), value)
        elif value is None:
            document.pop(key, None)
        else:
            document[key] = value


@contextmanager
def serving() -> Iterator[NodeApi]:
    """An API that answers while the block runs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            with api.lock:
                status, document = api.answer(self.command, self.path, body)
                # As the API server does it.
                text = json.dumps(document, indent=2).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api = NodeApi(server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
