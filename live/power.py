"""`./hardway stop` and `./hardway start`: all machines of a lab in containers, at once.

A stopped lab has a mark (toolchain/halted.py), and the host does not start it at boot. Everything on the machines'
disks stays. `start` does what the host does at boot, and waits until the lab is healthy.
"""

import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from shlex import quote
from subprocess import TimeoutExpired
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from config import health
from config.machines import Role
from config.ports import API_PORT
from live import answers, cluster, nodes
from live.cluster import Cluster, LiveMachine
from live.containers import Container, Containers, check_engine
from live.https_api import Api, ApiError
from live.programs import LEADERS
from live.waiting import still_missing
from toolchain import halted, operations
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.stack import Stack

_END_SECONDS = 3
"""How long the programs on a machine have to end. What they wrote is on its disk; etcd syncs each write by itself."""
_CONTROLLER_END_SECONDS = 1
"""An API server does not end by itself while clients watch objects. Pods that need longer run on workers."""
_API_SECONDS = 20
"""How long the workers wait for the API server before they are started all the same."""
_HEALTHY_SECONDS = 120
_LOOK_EVERY = 0.25
_LEASES_SECONDS = 3
_DNS_PODS = f"/api/v1/namespaces/kube-system/pods?labelSelector={'%3D'.join(health.DNS_LABEL)}"
_DEPLOYMENTS = "/apis/apps/v1/namespaces/kube-system/deployments"
_ENDED = ("Succeeded", "Failed")
"""Phases of pods that do not run again."""
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
_DNS_SECONDS = 3
"""How long a worker asks in one login."""


def stop(stack: Stack) -> None:
    """Stop all machines of a lab. Succeeds if they are stopped.

    Raises:
        ToolchainError: nothing was changed; or a machine still runs.
    """
    check_engine(stack, "stop")
    halted.check_state_fits(stack)
    lab = cluster.find(stack, halted_too=True, part_too=True)
    with operations.without_pulumi(stack, "./hardway stop"), Report() as report:
        containers = Containers(lab)
        found = containers.find()
        halted.mark_stopped(stack)
        containers.start_at_boot(False)
        with report.part(f"{len(found)} machines stop"):
            controllers = {machine.name for machine in lab.with_role(Role.CONTROLLER)}
            containers.stop(
                found,
                seconds=lambda machine: round(
                    lab.allowed(_CONTROLLER_END_SECONDS if machine in controllers else _END_SECONDS)
                ),
            )
    print(f"The lab {stack.name} is stopped. `./hardway start -s {stack.name}` starts it.")


def start(stack: Stack) -> None:
    """Start all machines of a lab and wait until it is healthy. Succeeds if it runs.

    Raises:
        ToolchainError: nothing was changed; or what is not healthy.
    """
    check_engine(stack, "start")
    halted.check_state_fits(stack)
    began = monotonic()
    with operations.without_pulumi(stack, "./hardway start"):
        lab, missing = start_machines(stack)
    if missing:
        raise ToolchainError(
            f"The machines of the lab {stack.name} are started, but not all is healthy after "
            f"{lab.allowed(_HEALTHY_SECONDS):.0f} s:\n"
            + "".join(f"  - {each}\n" for each in missing)
            + f"Run `./hardway status -s {stack.name}` for details."
        )
    print(f"The lab {stack.name} runs and is healthy, after {monotonic() - began:.1f} s.")


def start_for_up(stack: Stack) -> None:
    """Start a stopped lab, for `up`, which then puts right what is not healthy.

    Raises:
        ToolchainError: the machines cannot be started.
    """
    if not (since := halted.stopped_since(stack)):
        return
    print(f"{halted.said_stopped(stack, since)} It is started first.", flush=True)
    check_engine(stack, "start")
    with operations.pulumi_kept_out(stack, "./hardway up"):
        _, missing = start_machines(stack)
    if missing:
        print("\n".join(["Not all is healthy yet:", *(f"  - {each}" for each in missing)]), flush=True)


def start_machines(stack: Stack) -> tuple[Cluster, list[str]]:
    """Start the machines and wait; no other run is at work on the lab.

    Returns:
        The lab, and what is not healthy at the deadline.
    """
    lab = cluster.find(stack, halted_too=True, part_too=True)
    containers = Containers(lab)
    found = containers.find()
    since = nodes.now()
    with Report() as report:
        with report.part(f"{len(found)} machines start"):
            boot(lab, containers, found, since=since)
        containers.start_at_boot(True)
        halted.mark_started(stack)
        with report.part("the lab gets healthy"):
            return lab, unhealthy(lab, since=since)


def boot(lab: Cluster, containers: Containers, found: Sequence[Container], *, since: datetime) -> None:
    """Start all machines of a lab: the workers as soon as an API server accepts connections.

    A kubelet that finds no API server tries again after 0.1 s, then after twice that time, and so on: when the API
    server answers at last, it often waits for several seconds more. An API server is ready about a second after it
    accepts connections; in that second a worker boots up to its kubelet, and leases of before are released.

    Args:
        lab: the lab.
        containers: its containers.
        found: all of them.
        since: before the first of them is started.

    Raises:
        ToolchainError: a machine was not started.
    """
    workers = {machine.name for machine in lab.with_role(Role.WORKER)}
    containers.boot([each for each in found if each.machine not in workers])
    if lab.has("load-balancer"):
        still_missing(lambda: no_api_server(lab), lab.allowed(_API_SECONDS), every=0.1)
    with ThreadPoolExecutor(max_workers=1) as threads:
        threads.submit(release_leases, lab, since, [api_url(machine) for machine in lab.with_role(Role.CONTROLLER)])
        containers.start([each for each in found if each.machine in workers])


def unhealthy(lab: Cluster, *, since: datetime) -> list[str]:
    """Wait until a lab whose machines were started is healthy, and return what is not at the deadline.

    What the API says of Nodes and pods is from before the stop until the kubelets are heard. So the units of all
    machines and the Nodes are asked, as after `./hardway up`, once they are. DNS is asked by a real query, beside that.

    Args:
        lab: the lab.
        since: the time from which on kubelets must have been heard.
    """
    end = monotonic() + lab.allowed(_HEALTHY_SECONDS)

    def left() -> float:
        return max(0.0, end - monotonic())

    if not lab.has("dns"):
        return still_missing(lambda: answers.problems(lab), left(), every=_LOOK_EVERY) or []
    if still_missing(lambda: _api(lab), left(), every=_LOOK_EVERY):
        return answers.problems(lab) or _api(lab)
    names = [machine.name for machine in lab.nodes]
    with ThreadPoolExecutor(max_workers=2) as threads:
        released = threads.submit(release_leases, lab, since, [lab.endpoint])
        dns = threads.submit(still_missing, lambda: dns_problem(lab), left(), every=_LOOK_EVERY)
        # Its deadline is multiplied there.
        seconds = left() / lab.timeout_factor
        if unheard := nodes.wait_until_heard(lab, names, since=since, seconds=seconds, every=_LOOK_EVERY):
            return answers.problems(lab) or [f"the node {name}: {why}" for name, why in unheard.items()]
        units = still_missing(lambda: answers.problems(lab), left(), every=_LOOK_EVERY)
        # A query is answered by one of the pods; and Services have their pods from before.
        waiting = still_missing(
            lambda: [*leaders_missing(lab, since), *dns_pods_missing(lab, since)], left(), every=_LOOK_EVERY
        )
        silent = dns.result()
        released.result()
        return [*units, *waiting, *([silent] if silent else [])]


def _api(lab: Cluster) -> list[str]:
    # Here and below without kubectl: it takes a tenth of a second of a processor, which machines that start need.
    try:
        Api(lab).get(health.API_READY)
    except (ApiError, OSError) as error:
        return [f"the API at {lab.endpoint} does not answer ({error})"]
    return []


def api_url(machine: LiveMachine) -> str:
    """Where the API server of a controller accepts connections."""
    return f"https://{machine.address}:{API_PORT}"


def no_api_server(lab: Cluster) -> str:
    """Why no API server accepts connections at its own machine; empty where one does.

    A load balancer in front of them sends it none before it is ready.
    """
    said = ""
    for machine in lab.with_role(Role.CONTROLLER):
        if not (said := handshake_problem(lab, api_url(machine))):
            return ""
    return said


def handshake_problem(lab: Cluster, url: str) -> str:
    """Why no TLS handshake with `https://address:port` is possible; empty where one is.

    Nothing is sent, and no certificate is checked.
    """
    place = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((place.hostname, place.port or 443), timeout=lab.allowed(1)) as connection,
            context.wrap_socket(connection, server_hostname=place.hostname),
        ):
            return ""
    except OSError as error:
        return f"no TLS handshake: {error}"


def release_leases(lab: Cluster, since: datetime, urls: Sequence[str]) -> None:
    """Release the leases of controller manager and scheduler whose holders have ended with their machines.

    Else the new ones would wait for 15 s, and Services would have no pods until then. A lease that one of them has
    renewed in the meantime has another version, and is not replaced.

    Args:
        lab: the lab.
        since: leases that were renewed later are not released.
        urls: https://address:port of API servers; the first that answers is used.
    """
    api = Api(lab)
    for url in urls:
        try:
            for lease in api.send("GET", _LEASES, url=url, seconds=_LEASES_SECONDS)["items"]:
                name, spec = lease["metadata"]["name"], lease["spec"]
                if name in LEADERS and spec.get("holderIdentity") and health.renewed(spec) < since.timestamp():
                    # As a holder itself releases it.
                    lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    api.send("PUT", f"{_LEASES}/{name}", lease, url=url, seconds=_LEASES_SECONDS)
            return
        except (ApiError, OSError):
            # The next one; and without any they expire by themselves.
            continue


def leaders_missing(lab: Cluster, since: datetime) -> list[str]:
    """Controller manager and scheduler, where none of them has taken or renewed the lease since then."""
    try:
        leases = Api(lab).get(_LEASES)["items"]
    except (ApiError, OSError) as error:
        return [f"the leases cannot be asked for ({error})"]
    now = nodes.now().timestamp()
    led = {
        lease["metadata"]["name"]
        for lease in leases
        if health.is_held(lease["spec"], now) and health.renewed(lease["spec"]) >= since.timestamp()
    }
    return [f"{name} has no leader" for name in LEADERS if name not in led]


def dns_pods_missing(lab: Cluster, since: datetime) -> list[str]:
    """The pods of the cluster's DNS that are not Ready, each with a sentence; or that its Deployment counts too few.

    A pod whose containers have not started since then is Ready only by what the API had from before: its kubelet has
    not told of it yet.
    """
    try:
        api = Api(lab)
        pods = api.get(_DNS_PODS)["items"]
        available, wanted = health.replicas(api.get(f"{_DEPLOYMENTS}/{health.DNS}"))
    except (ApiError, OSError) as error:
        return [f"the pods of DNS cannot be asked for ({error})"]
    there = [
        pod for pod in pods if pod["status"].get("phase") not in _ENDED and "deletionTimestamp" not in pod["metadata"]
    ]
    missing = [
        f"the pod {pod['metadata']['name']} of DNS is not Ready"
        for pod in there
        if not (health.has_condition(pod) and all(_has_started(each, since) for each in _containers(pod)))
    ]
    too_few = health.too_few_replicas(available, wanted)
    return missing or ([too_few] if too_few else [])


def _containers(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = pod["status"].get("containerStatuses", ())
    return found


def _has_started(container: Mapping[str, Any], since: datetime) -> bool:
    started = container["state"].get("running", {}).get("startedAt")
    return started is not None and datetime.fromisoformat(started) >= since


def dns_problem(lab: Cluster) -> str:
    """Why the cluster's DNS does not answer, asked from a worker through the service network; empty where it does."""
    network = lab.stack.network
    name = f"kubernetes.default.svc.{network.cluster_domain}"
    question = ("dig", "+short", f"+time={lab.timeout_factor}", "+tries=1", f"@{network.dns_service}", name)
    worker = lab.with_role(Role.WORKER)[0]
    # In one login: a new one for each query takes longer than the query.
    script = (
        f"end=$((SECONDS + {_DNS_SECONDS}))\n"
        f'until said=$({" ".join(map(quote, question))}); [ "$said" = {network.api_service} ] || '
        "[ $SECONDS -ge $end ]; do sleep 0.1; done\n"
        "printf '%s\\n' \"$said\""
    )
    try:
        done = lab.ssh(worker, script, seconds=10 + _DNS_SECONDS)
    except TimeoutExpired:
        return f"DNS: {worker.name} does not answer"
    if done.stdout.strip() == str(network.api_service):
        return ""
    said = (done.stdout.strip() or done.stderr.strip() or "no answer").splitlines()[-1]
    return f"DNS on {worker.name} does not resolve {name}: {said}"
