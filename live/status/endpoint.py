"""The endpoint in a lab's status: the API's address, who has it, and the servers behind the balancers."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from config import health
from live.api import ask_api
from live.cluster import Cluster
from live.probe import Probe


@dataclass(frozen=True, kw_only=True)
class BackendStatus:
    """One server behind one balancer.

    Args:
        balancer: the machine with HAProxy.
        backend, server: as in its configuration.
        up: whether it gets connections.
        status: HAProxy's own word.
        check: how the last check ended.
    """

    balancer: str
    backend: str
    server: str
    up: bool
    status: str
    check: str


@dataclass(frozen=True, kw_only=True)
class EndpointStatus:
    """The address that people and workers know the API by.

    Args:
        url: https://address:6443.
        ready: what /readyz says there, asked from the Pulumi host.
        message: why not.
        held_by: the machines that have the address.
    """

    url: str
    ready: bool
    message: str
    held_by: list[str]


def backend_statuses(probe: Probe) -> Iterator[BackendStatus]:
    answer = probe.answer("backends")
    if answer.status != 0:
        return
    for row in csv.DictReader(answer.out.removeprefix("# ").splitlines()):
        if row["svname"] not in ("FRONTEND", "BACKEND"):
            yield BackendStatus(
                balancer=probe.machine.name,
                backend=row["pxname"],
                server=row["svname"],
                up=health.is_up(row["status"]),
                status=row["status"],
                # "* L7STS" while the next check is under way
                check=(row["last_chk"] or row["check_status"]).removeprefix("* "),
            )


def endpoint_status(cluster: Cluster, probes: Sequence[Probe], says: str) -> EndpointStatus:
    address = urlsplit(cluster.endpoint).hostname
    return EndpointStatus(
        url=cluster.endpoint,
        ready=says == "ok",
        message="" if says == "ok" else says,
        held_by=[probe.machine.name for probe in probes if f" {address}/" in probe.answer("addresses").out],
    )


def balancer_problems(
    endpoint: EndpointStatus, backends: Sequence[BackendStatus], balancers: Sequence[Probe]
) -> Iterator[str]:
    if not endpoint.ready:
        yield f"the endpoint {endpoint.url}: {endpoint.message}"
    # Where no machine balances, the address is none of theirs.
    if balancers and len(endpoint.held_by) != 1:
        yield f"the endpoint's address is held by {' and '.join(endpoint.held_by) or 'no machine that answers'}"
    for probe in balancers:
        if probe.reached and probe.answer("backends").status != 0:
            yield f"HAProxy on {probe.machine.name} does not report its state: {probe.answer('backends').why}"
    for backend in backends:
        if not backend.up:
            yield f"{backend.balancer}: {backend.server} in {backend.backend} is {backend.status} ({backend.check})"


def ask_endpoint(cluster: Cluster) -> str:
    """What the endpoint says of itself: "ok", or why it is not ready."""
    said, why = ask_api(cluster, "--raw", health.API_READY)
    return why or said.strip()
