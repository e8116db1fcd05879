"""What `trace packet` is asked to follow, out of the API: a Pod, a Service, and the endpoints that may answer.

Everything that stands in the way is in one report, before anything is changed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from live.api import ask_api
from live.cluster import Cluster, LiveMachine
from toolchain.errors import ToolchainError

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
# By these the request is made with TLS.
_TLS_PORTS = (443, 6443, 8443)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An address that may answer.

    Args:
        address, port: where.
        pod: NAMESPACE/NAME; empty where no Pod is behind the address.
        machine: on which machine of the lab it is; None: on none.
    """

    address: str
    port: int
    pod: str
    machine: LiveMachine | None

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return self.pod or self.address


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is followed.

    Args:
        pod: NAMESPACE/NAME of the Pod that asks.
        pod_address: its address.
        machine: where it runs.
        service: NAMESPACE/NAME.
        address, port: what the request is sent to: those of the Service; of an endpoint where it is headless.
        headless: whether the Service has no address of its own.
        tls: whether the request is made with TLS.
        endpoints: all that are ready.
    """

    pod: str
    pod_address: str
    machine: LiveMachine
    service: str
    address: str
    port: int
    headless: bool
    tls: bool
    endpoints: Sequence[Endpoint]

    @property
    def machines(self) -> list[LiveMachine]:
        """The machines that a packet may pass: the Pod's first."""
        found = [self.machine]
        for endpoint in self.endpoints:
            if endpoint.machine is not None and endpoint.machine not in found:
                found.append(endpoint.machine)
        return found


def split_name(given: str, namespace: str) -> tuple[str, str]:
    """Namespace and name, out of NAME or NAMESPACE/NAME."""
    before, slash, after = given.partition("/")
    return (before, after) if slash else (namespace, given)


def find(cluster: Cluster, pod: str, service: str, *, namespace: str) -> Target:
    """Read the objects.

    Args:
        cluster: the lab.
        pod, service: NAME or NAMESPACE/NAME.
        namespace: the namespace of those without one.

    Raises:
        ToolchainError: with everything that is wrong with them; or the API does not answer.
    """
    pod_space, pod_name = split_name(pod, namespace)
    service_space, service_name = split_name(service, namespace)
    wrong = [
        f"{given!r} is not the name of a {kind}: NAME or NAMESPACE/NAME"
        for kind, given, parts in (
            ("Pod", pod, (pod_space, pod_name)),
            ("Service", service, (service_space, service_name)),
        )
        if not all(_NAME.fullmatch(part) for part in parts)
    ]
    if wrong:
        raise _refused(wrong)
    of_service = f"kubernetes.io/service-name={service_name}"
    asked = [
        ("pod", pod_name, "-n", pod_space, "--ignore-not-found"),
        ("service", service_name, "-n", service_space, "--ignore-not-found"),
        ("endpointslices", "-n", service_space, "-l", of_service),
    ]
    with ThreadPoolExecutor(max_workers=len(asked)) as threads:
        answers = list(threads.map(lambda what: ask_api(cluster, *what, "-o", "json"), asked))
    if why := next((why for _, why in answers if why), ""):
        raise ToolchainError(f"The API of {cluster.stack.name} did not answer: {why}. Nothing was changed.")
    pod_object, service_object, slices = (json.loads(said or "{}") for said, _ in answers)
    return read(
        cluster,
        f"{pod_space}/{pod_name}",
        pod_object,
        f"{service_space}/{service_name}",
        service_object,
        slices.get("items", []),
    )


def read(
    cluster: Cluster,
    pod: str,
    pod_object: Mapping[str, Any],
    service: str,
    service_object: Mapping[str, Any],
    slices: Sequence[Mapping[str, Any]],
) -> Target:
    """The target, out of the objects.

    Args:
        cluster: the lab.
        pod, service: NAMESPACE/NAME.
        pod_object, service_object: as the API has them; empty where it has none.
        slices: the EndpointSlices of the Service.

    Raises:
        ToolchainError: with everything that is wrong with them.
    """
    port = _tcp_port(service_object)
    endpoints = _endpoints(cluster, slices, port)
    wrong = [*_problems_of_pod(cluster, pod, pod_object), *_problems_of_service(service, service_object, endpoints)]
    if wrong:
        raise _refused(wrong)
    assert port is not None
    headless = service_object["spec"]["clusterIP"] == "None"
    first = endpoints[0]
    number = first.port if headless else int(port["port"])
    words = (str(port.get("appProtocol", "")), str(port.get("name", "")))
    return Target(
        pod=pod,
        pod_address=pod_object["status"]["podIP"],
        machine=cluster.machine(pod_object["spec"]["nodeName"]),
        service=service,
        address=first.address if headless else service_object["spec"]["clusterIP"],
        port=number,
        headless=headless,
        tls=number in _TLS_PORTS or any("https" in word.lower() for word in words),
        endpoints=endpoints,
    )


def _problems_of_pod(cluster: Cluster, pod: str, found: Mapping[str, Any]) -> list[str]:
    if not found:
        return [f"there is no Pod {pod}"]
    status, spec = found.get("status", {}), found.get("spec", {})
    if spec.get("hostNetwork"):
        return [f"the Pod {pod} is on its machine's network: it has no interface of its own to follow"]
    phase = status.get("phase", "Unknown")
    if phase != "Running" or "deletionTimestamp" in found["metadata"]:
        state = "is being deleted" if "deletionTimestamp" in found["metadata"] else f"does not run, it is {phase}"
        return [f"the Pod {pod} {state}"]
    problems = []
    if ":" in status.get("podIP", ":"):
        problems.append(f"the Pod {pod} has no IPv4 address")
    if spec.get("nodeName") not in [machine.name for machine in cluster.machines]:
        problems.append(f"the Pod {pod} runs on {spec.get('nodeName')}, which is no machine of this lab")
    return problems


def _problems_of_service(service: str, found: Mapping[str, Any], endpoints: Sequence[Endpoint]) -> list[str]:
    if not found:
        return [f"there is no Service {service}"]
    spec = found["spec"]
    if spec.get("type") == "ExternalName":
        name = spec.get("externalName")
        return [f"the Service {service} is of type ExternalName: DNS answers with the name {name}, no rule has it"]
    if _tcp_port(found) is None:
        return [f"the Service {service} has no TCP port, and the request is made by TCP"]
    if ":" in spec.get("clusterIP", ""):
        return [f"the Service {service} has no IPv4 address"]
    if not endpoints:
        return [f"the Service {service} has no endpoint that is ready: `kubectl get endpointslices` lists them"]
    return []


def _tcp_port(service: Mapping[str, Any]) -> Mapping[str, Any] | None:
    ports = service.get("spec", {}).get("ports") or ()
    return next((each for each in ports if each.get("protocol", "TCP") == "TCP"), None)


def _endpoints(cluster: Cluster, slices: Sequence[Mapping[str, Any]], port: Mapping[str, Any] | None) -> list[Endpoint]:
    if port is None:
        return []
    machines = {machine.name: machine for machine in cluster.machines}
    by_address = {machine.address: machine for machine in cluster.machines}
    found: dict[tuple[str, int], Endpoint] = {}
    for each in slices:
        numbers = [
            entry["port"]
            for entry in each.get("ports") or ()
            if (entry.get("name") or "") == (port.get("name") or "") and entry.get("protocol", "TCP") == "TCP"
        ]
        if each.get("addressType") != "IPv4" or not numbers:
            continue
        for endpoint in each.get("endpoints") or ():
            if endpoint.get("conditions", {}).get("ready") is False:
                continue
            address, reference = endpoint["addresses"][0], endpoint.get("targetRef") or {}
            is_pod = reference.get("kind") == "Pod"
            found[address, numbers[0]] = Endpoint(
                address=address,
                port=numbers[0],
                pod=f"{reference['namespace']}/{reference['name']}" if is_pod else "",
                machine=machines.get(endpoint.get("nodeName") or "") or by_address.get(address),
            )
    return list(found.values())


def _refused(wrong: Sequence[str]) -> ToolchainError:
    return ToolchainError("\n  ".join(["No packet was sent, and nothing was changed:", *wrong]))
