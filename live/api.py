"""What the API says, asked by the lab's kubectl."""

import json
from collections.abc import Collection
from subprocess import TimeoutExpired
from typing import Any

from live.cluster import Cluster


def ask_api(cluster: Cluster, *what: str) -> tuple[str, str]:
    """What `kubectl get` prints through the endpoint; or nothing, and why it failed.

    Args:
        cluster: the lab.
        what: its arguments.
    """
    seconds = 5
    try:
        request = f"--request-timeout={cluster.allowed(seconds):.0f}s"
        done = cluster.kubectl("get", *what, request, seconds=2 * seconds)
    except TimeoutExpired:
        return "", f"no answer within {cluster.allowed(2 * seconds):.0f} s"
    if done.returncode == 0:
        return done.stdout, ""
    return "", (done.stderr.strip().splitlines() or ["kubectl failed"])[-1]


def ask_nodes(cluster: Cluster, names: Collection[str]) -> tuple[list[dict[str, Any]], str]:
    """The Nodes of these names that are there; or none, and why they cannot be had.

    By their names: other Nodes, of which there may be many, cost nothing.
    """
    said, why = ask_api(cluster, "nodes", *names, "--ignore-not-found", "-o", "json")
    # Of one Node kubectl prints no list, and where there is none it prints nothing.
    found = json.loads(said) if said.strip() else {"items": []}
    return found.get("items", [found]), why
