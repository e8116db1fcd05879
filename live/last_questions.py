"""What `./hardway up` asks of the API at its end: whether it is ready, the lab's Nodes, and the table of all Nodes.

Asked in this process: a kubectl takes a third of a second of a processor to start, and each `up` would need three of
them. Only where the API has a public address kubectl asks, since a proxy of the user's may lead there.
"""

from collections.abc import Collection, Sequence
from contextlib import closing
from functools import partial
from http.client import HTTPSConnection
from typing import Any

import yaml

from config import health
from live import api
from live.cluster import Cluster
from live.https_api import Api, ApiError, ask, found
from toolchain import access

_SECONDS = 5
_NODES = "/api/v1/nodes"
# What kubectl asks for: the API server itself makes the cells.
_AS_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
# As kubectl has it between two columns.
_GAP = "   "


def ask_api(cluster: Cluster, names: Collection[str]) -> tuple[str, list[dict[str, Any]], str]:
    """Why the API is not ready, or nothing; the Nodes of these names that are there; and why they cannot be had.

    By their names: other Nodes, of which there may be many, cost nothing.
    """
    if not access.is_reached_directly(cluster.stack):
        said, why = api.ask_api(cluster, "--raw", health.API_READY)
        items, refused = api.ask_nodes(cluster, names) if names else ([], "")
        return _not_ready(why or said), items, refused
    try:
        opened = _opened(cluster)
    except ApiError as error:
        return str(error), [], str(error)
    with closing(opened) as connection:
        return _readiness(cluster, connection), *_nodes(cluster, connection, names)


def table_of_nodes(cluster: Cluster) -> str:
    """The table of all Nodes as `kubectl get nodes -o wide` prints it; empty where the API does not answer."""
    if not access.is_reached_directly(cluster.stack):
        return access.nodes(cluster.stack, quiet=True)
    try:
        with closing(_opened(cluster)) as connection:
            return printed(ask(connection, "GET", _NODES, accept=_AS_TABLE))
    except ApiError:
        return ""


def printed(table: dict[str, Any]) -> str:
    """A Table of the API as kubectl prints it with `-o wide`."""
    rows = [[column["name"].upper() for column in table["columnDefinitions"]]]
    rows += [[str(cell) for cell in row["cells"]] for row in table["rows"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(f"{_line(row, widths)}\n" for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    *cells, last = row
    return _GAP.join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), last])


def _opened(cluster: Cluster) -> HTTPSConnection:
    """A connection through the balancer.

    Raises:
        ApiError: the lab's kubeconfig is damaged. `up` writes it again.
    """
    try:
        return Api(cluster).connection(seconds=_SECONDS)
    except (yaml.YAMLError, LookupError, TypeError, ValueError, OSError) as error:
        raise ApiError(f"the kubeconfig cannot be used: {error}") from error


def _readiness(cluster: Cluster, connection: HTTPSConnection) -> str:
    try:
        return _not_ready(str(ask(connection, "GET", health.API_READY)))
    except ApiError as error:
        return _why(cluster, error)


def _not_ready(said: str) -> str:
    return "" if said.strip() == "ok" else said.strip()


def _nodes(cluster: Cluster, connection: HTTPSConnection, names: Collection[str]) -> tuple[list[dict[str, Any]], str]:
    try:
        listed = [found(partial(ask, connection, "GET"), f"{_NODES}/{name}") for name in names]
    except ApiError as error:
        return [], _why(cluster, error)
    return [item for item in listed if item is not None], ""


def _why(cluster: Cluster, error: ApiError) -> str:
    if isinstance(error.__cause__, TimeoutError):
        return f"no answer within {cluster.allowed(_SECONDS):.0f} s"
    return str(error)
