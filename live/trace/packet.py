"""`./hardway trace packet`: one request from a Pod to a Service, hop by hop, as the machines saw it."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from live.cluster import Cluster, LiveMachine
from live.trace import packet_machines as machines
from live.trace import packet_objects, packet_workload
from live.trace.mermaid import sequence_diagram
from live.trace.packet_events import where
from live.trace.packet_hops import Hop, Observed, hops
from live.trace.packet_machines import Watch
from live.trace.packet_objects import Target
from toolchain.errors import ToolchainError
from toolchain.exclusive import HeldError, held_or_refused


@dataclass(frozen=True, kw_only=True)
class PacketTrace:
    """A request, followed.

    Args:
        stack: the lab.
        pod, service: NAMESPACE/NAME.
        address: what the request was sent to: ADDRESS:PORT.
        endpoint: the one that it was translated to; null where none was chosen.
        proxy_mode: how kube-proxy writes its rules.
        pod_network: routes or calico.
        answered: whether the Pod got an answer.
        hops: in order.
    """

    stack: str
    pod: str
    service: str
    address: str
    endpoint: str | None
    proxy_mode: str
    pod_network: str
    answered: bool
    hops: Sequence[Hop]

    def json(self) -> str:
        """All of it, for programs."""
        return json.dumps(asdict(self), indent=2)

    def mermaid(self) -> str:
        """A sequence diagram: between Pods, machines and their interfaces."""
        return sequence_diagram(self._messages())

    def _messages(self) -> Iterator[tuple[str, str, str]]:
        place = self.pod
        for hop in self.hops:
            if hop.part == "name":
                yield self.pod, "CoreDNS", hop.what
                continue
            here = hop.machine if hop.machine in (self.pod, "") else f"{hop.machine} {hop.interface}".strip()
            # What has no interface of its own happens where the packet is.
            here = place if not hop.interface and place.partition(" ")[0] == hop.machine else here
            yield place, here, hop.what
            place = here


def run(cluster: Cluster, pod: str | None, service: str | None, *, namespace: str) -> PacketTrace:
    """Trace one request.

    Args:
        cluster: the lab.
        pod, service: NAME or NAMESPACE/NAME; None: a Pod and a Service are made for it, and removed.
        namespace: the namespace of those without one.

    Raises:
        ToolchainError: it cannot be traced; another trace is at work; a machine or the API does not answer.
    """
    try:
        with held_or_refused(cluster.stack.directory / "trace-packet.lock", what="trace packet"):
            if pod is not None and service is not None:
                return follow(cluster, packet_objects.find(cluster, pod, service, namespace=namespace))
            with packet_workload.Workload(cluster) as workload:
                workload.start()
                space = packet_workload.NAMESPACE
                target = packet_objects.find(cluster, packet_workload.CLIENT, workload.service, namespace=space)
                return follow(cluster, target, workload=workload)
    except HeldError as error:
        raise ToolchainError(
            f"Another trace of a packet in {cluster.stack.name} is at work ({error}). Nothing was changed."
        ) from None


def follow(cluster: Cluster, target: Target, *, workload: packet_workload.Workload | None = None) -> PacketTrace:
    """Send the request while all machines that it may pass watch it.

    Args:
        cluster: the lab.
        target: what is traced.
        workload: the trace's own, whose rules may not be there yet.

    Raises:
        ToolchainError: a machine does not answer.
    """
    involved = target.machines
    with ThreadPoolExecutor(max_workers=len(cluster.machines)) as threads:
        others = [machine for machine in cluster.nodes if machine not in involved]
        removals = [threads.submit(machines.remove_leftovers, cluster, machine) for machine in others]
        found = list(threads.map(lambda machine: machines.gather(cluster, target, machine), involved))
        for removal in removals:
            removal.result()
    facts = {each.machine.name: each for each in found}
    space, port = _place_of(facts[target.machine.name], target)
    if workload is not None:
        workload.wait_for_rules(space, f"http://{target.address}:{target.port}/")
    with ExitStack() as stack:
        watches = [stack.enter_context(Watch(cluster, each, target, port)) for each in found]
        for watch in watches:
            watch.wait_until_ready()
        request = machines.send(cluster, target, space, port)
        with ThreadPoolExecutor(max_workers=len(watches)) as threads:
            seen = list(threads.map(Watch.end, watches))
    observed = Observed(
        target=target,
        port=port,
        facts=facts,
        seen={each.machine.name: said for each, said in zip(found, seen, strict=True)},
        request=request,
    )
    observed.routes = _routes(cluster, involved, observed)
    endpoint = observed.endpoint
    return PacketTrace(
        stack=cluster.stack.name,
        pod=target.pod,
        service=target.service,
        address=where((target.address, target.port)),
        endpoint=where((endpoint.address, endpoint.port)) if endpoint is not None else None,
        proxy_mode=cluster.stack.network.kube_proxy_mode,
        pod_network=cluster.stack.network.pod_network,
        answered=request.connected,
        hops=hops(observed),
    )


def _place_of(facts: machines.Facts, target: Target) -> tuple[str, int]:
    """The Pod's network namespace on its machine, and a port that the request may come from."""
    space, port = facts.said("space-path"), facts.said("port")
    if facts.why("space") or not port.isdigit():
        why = space if facts.why("space") else facts.why("port")
        raise ToolchainError(f"The network of the Pod {target.pod} was not found on {facts.machine.name}: {why}.")
    return space, int(port)


def _routes(
    cluster: Cluster, involved: Sequence[LiveMachine], observed: Observed
) -> dict[tuple[str, tuple[str, str, str]], str]:
    asked = observed.questions()

    def ask(machine: LiveMachine) -> list[tuple[tuple[str, tuple[str, str, str]], str]]:
        wanted = [question for question in asked if question[0] == machine.name]
        if not wanted:
            return []
        answers = machines.routes(cluster, machine, [route for _, route in wanted])
        return list(zip(wanted, answers, strict=True))

    with ThreadPoolExecutor(max_workers=len(involved)) as threads:
        return dict(pair for pairs in threads.map(ask, involved) for pair in pairs)


def lines(trace: PacketTrace) -> Iterator[str]:
    """What a person reads: a table of the hops, the evidence below each, and how the request ended."""
    rows = [(str(number), hop.machine, hop.interface) for number, hop in enumerate(trace.hops, start=1)]
    heads = ("hop", "machine", "interface")
    widths = [max(len(row[column]) for row in (*rows, heads)) for column in range(len(heads))]

    def row(cells: Sequence[str], last: str) -> str:
        return "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last]).rstrip()

    yield row(heads, "what happened, and the evidence")
    for cells, hop in zip(rows, trace.hops, strict=True):
        yield row(cells, hop.what)
        yield from (row(("", "", ""), f"  {line}") for line in hop.evidence)
    yield ""
    yield verdict(trace)


def verdict(trace: PacketTrace) -> str:
    """The last line."""
    way = f"{trace.pod} to {trace.service} ({trace.address})"
    if trace.answered:
        return f"{way}: answered by {trace.endpoint or trace.address}, {len(trace.hops)} hops."
    ended = trace.hops[-1]
    return f"{way}: no answer. {ended.machine} {ended.interface}: {ended.what}."
