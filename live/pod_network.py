"""The pod network of a running lab: the routes of every machine, and packets from pods to pods on other nodes.

Routes are asked of the kernel, as it would send a packet now: a route that another one overrides counts as missing. The
packets are TCP connections to the pods of DNS, made in the network namespace of a pod, so that they pass everything
that a packet of a pod passes. Nothing is created for them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config import health
from config.machine_paths import POD_NETWORK_UNIT
from live.cluster import Cluster
from live.probe import Probe

_PORT = 53


@dataclass(frozen=True, kw_only=True)
class PodNetworkStatus:
    """The pod network as one machine sees it.

    Args:
        machine: which.
        read: whether its routes could be read.
        message: why not; or why no packets could be sent.
        wrong_routes: pod ranges that it reaches by another way than through their workers, or not at all.
        source: the address of its pod from which packets were sent; null where none was sent.
        reached: the nodes whose pod of DNS took a connection.
        lost: the nodes whose pod of DNS took none.
    """

    machine: str
    read: bool
    message: str = ""
    wrong_routes: tuple[str, ...] = ()
    source: str | None = None
    reached: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def packets_question(cluster: Cluster, probe: Probe, objects: Sequence[Mapping[str, Any]]) -> str | None:
    """The shell lines by which a node sends its packets; nothing where there is no pod elsewhere to send them to."""
    if probe.machine not in cluster.nodes:
        return None
    pods = list(_dns_pods(objects))
    own = [address for address, node in pods if node == probe.machine.name]
    targets = [address for address, node in pods if node != probe.machine.name]
    if not targets:
        return None
    # A network policy may forbid any other pod to send.
    others = "" if "calico" in cluster.stack.features else '[ -n "$source" ] || { source=$address way=$space; }'
    tries = "\n".join(f"try {address} &" for address in targets)
    return f"""
source='' way=''
for space in /run/netns/cni-*; do
  [ -e "$space" ] || continue
  address=$(nsenter --net="$space" ip -4 -o address show scope global | awk '{{ sub("/.*", "", $4); print $4; exit }}')
  [ -n "$address" ] || continue
  case " {" ".join(own)} " in *" $address "*) source=$address way=$space; break ;; esac
  {others}
done
[ -n "$source" ] || exit 0
echo "source $source"
try() {{
  if timeout {3 * cluster.timeout_factor} nsenter --net="$way" bash -c "exec 3<>/dev/tcp/$1/{_PORT}"
  then echo "reached $1"; else echo "lost $1"; fi
}}
{tries}
wait"""


def judge(cluster: Cluster, probes: Sequence[Probe], objects: Sequence[Mapping[str, Any]]) -> list[PodNetworkStatus]:
    """What the machines that answer say."""
    return [_status(cluster, probe, dict(_dns_pods(objects))) for probe in probes if probe.reached]


def problems(found: Sequence[PodNetworkStatus], explained: Collection[str]) -> Iterator[str]:
    """What is wrong. Lost packets are a problem of their own where nothing else explains them.

    Args:
        found: what `judge` returned.
        explained: machines of which another problem is known that stops packets of pods.
    """
    for each in found:
        if not each.read:
            yield f"the routes of {each.machine} to pods cannot be read: {each.message}"
        elif each.message:
            yield f"no packet can be sent from a pod on {each.machine}: {each.message}"
        if each.wrong_routes:
            yield (
                f"{each.machine} has no route to {' and '.join(each.wrong_routes)}: "
                f"`systemctl restart {POD_NETWORK_UNIT}` there sets its routes again"
            )
    known = {*explained, *(each.machine for each in found if each.wrong_routes or not each.read)}
    lost = {(each.machine, node) for each in found for node in each.lost if not {each.machine, node} & known}
    for sender, receiver in sorted(lost):
        if (receiver, sender) not in lost:
            yield f"packets from pods on {sender} do not reach pods on {receiver}"
        elif sender < receiver:
            yield f"pods on {sender} and pods on {receiver} do not reach each other"


def _status(cluster: Cluster, probe: Probe, nodes: Mapping[str, str]) -> PodNetworkStatus:
    name, routes = probe.machine.name, probe.answer("routes")
    if routes.status != 0:
        return PodNetworkStatus(machine=name, read=False, message=routes.why)
    sent = probe.answer("packets")
    was_asked = "packets" in probe.answers
    said: dict[str, list[str]] = {}
    for line in sent.out.splitlines():
        word, _, value = line.partition(" ")
        said.setdefault(word, []).append(value)
    return PodNetworkStatus(
        machine=name,
        read=True,
        message=sent.why if was_asked and sent.status != 0 else "",
        wrong_routes=tuple(_wrong_routes(cluster, routes.out)),
        source=next(iter(said.get("source", [])), None),
        reached=_nodes(said.get("reached", []), nodes),
        lost=_nodes(said.get("lost", []), nodes),
    )


def _nodes(addresses: Sequence[str], nodes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted({nodes[address] for address in addresses if address in nodes}))


def _wrong_routes(cluster: Cluster, printed: str) -> Iterator[str]:
    names = {machine.address: machine.name for machine in cluster.machines}
    for line in printed.splitlines():
        # "10.200.1.0/24 10.240.0.21 10.200.1.0 via 10.240.0.21 dev eth0 ..."
        pods, hop, way = [*line.split(" ", 2), ""][:3]
        if f" via {hop} " not in f"{way} ":
            yield f"the pods of {names.get(hop, hop)} ({pods} via {hop})"


def _dns_pods(objects: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Address and node of the pods of DNS that are Ready."""
    label, value = health.DNS_LABEL
    for item in objects:
        if item["kind"] != "Pod" or item["metadata"].get("labels", {}).get(label) != value:
            continue
        is_ready = health.has_condition(item) and "deletionTimestamp" not in item["metadata"]
        if is_ready and (address := item["status"].get("podIP")):
            yield address, item["spec"]["nodeName"]
