"""`./hardway check-network`: whether machines reach each other's ports, the API and each other's pods, now.

Each machine is asked by one SSH connection, all at the same time, and opens TCP connections. Nothing is sent through
them, and nothing is changed. Packets between pods are those of `status` (live/pod_network.py).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from subprocess import TimeoutExpired
from urllib.parse import urlsplit

from config.machines import Role
from config.ports import API_PORT, BETWEEN_MACHINES, PORTS
from live import status
from live.cluster import Cluster, LiveMachine

_ALL, _SOME, _NOT_ASKED = 0, 1, 2
_SECONDS = 3
_PODS = "pods"
_API = "the endpoint"
# The last part of what bash says: "bash: connect: Connection refused".
_REASON = re.compile(r"[^:]*$")


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way from a machine to another one.

    Args:
        source, target: names of machines; "the endpoint" for the address of the API.
        port: TCP; null for pods of DNS on the target, port 53, from a pod on the source.
        what: who listens there.
        problem: why no connection was made; empty where it was.
    """

    source: str
    target: str
    port: int | None
    what: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Connectivity:
    """All ways of a lab.

    Args:
        stack: which lab.
        ways: in the order of the machines.
        not_asked: machine -> why it could not be asked: its ways to others are not known.
    """

    stack: str
    ways: list[Way]
    not_asked: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0 all ways are open, 1 one is not, 2 a machine could not be asked."""
        if self.not_asked:
            return _NOT_ASKED
        return _SOME if any(way.problem for way in self.ways) else _ALL

    def json(self) -> str:
        """All ways, for programs."""
        return json.dumps(asdict(self), indent=2)


def find(cluster: Cluster) -> Connectivity:
    """Try all ways at once.

    Args:
        cluster: the lab.
    """
    with ThreadPoolExecutor(max_workers=len(cluster.machines) + 1) as threads:
        gathered = threads.submit(status.gather, cluster)
        said = dict(
            zip(
                (machine.name for machine in cluster.machines),
                threads.map(lambda machine: _ask(cluster, machine), cluster.machines),
                strict=True,
            )
        )
        pods = [
            Way(source=each.machine, target=node, port=None, what=_PODS, problem=problem)
            for each in gathered.result().pod_network
            for node, problem in (
                *((node, "") for node in each.reached),
                *((node, "no answer") for node in each.lost),
            )
        ]
    ways = [way for found in said.values() if not isinstance(found, str) for way in found]
    return Connectivity(
        stack=cluster.stack.name,
        ways=[*ways, *pods],
        not_asked={name: found for name, found in said.items() if isinstance(found, str)},
    )


def lines(found: Connectivity) -> Iterator[str]:
    """What a person reads: what is closed, and how many ways are open."""
    closed = [way for way in found.ways if way.problem]
    for name, why in found.not_asked.items():
        yield f"{name} could not be asked: {why}"
    for way in closed:
        where = f"{_PODS} on {way.target}" if way.port is None else f"{way.target}:{way.port} ({way.what})"
        source = f"{_PODS} on {way.source}" if way.port is None else way.source
        yield f"{source} -> {where}: {way.problem}"
    of_pods = sum(way.port is None for way in found.ways)
    yield (
        f"{len(found.ways) - len(closed)} of {len(found.ways)} ways are open: {len(found.ways) - of_pods} to ports of "
        f"machines, {of_pods} from pods to pods on other machines."
    )


def targets(cluster: Cluster, source: LiveMachine) -> list[tuple[str, str, int, str]]:
    """Name, address, port and listener of all that a machine is to reach."""
    place = urlsplit(cluster.endpoint)
    found = [(_API, str(place.hostname), place.port or 443, PORTS["controller"][API_PORT])]
    for machine in cluster.machines:
        if machine != source:
            for kind in _kinds(cluster, machine):
                ports = BETWEEN_MACHINES[kind]
                found += [(machine.name, machine.address, port, PORTS[kind][port]) for port in ports]
    return found


def _kinds(cluster: Cluster, machine: LiveMachine) -> Iterator[str]:
    if Role.LOAD_BALANCER in machine.roles:
        yield "load-balancer"
    if Role.CONTROLLER in machine.roles:
        yield "kubeadm-controller" if cluster.by_kubeadm else "controller"
    if machine in cluster.etcd_members:
        yield "etcd"
    if machine in cluster.nodes:
        yield "worker"


def _ask(cluster: Cluster, source: LiveMachine) -> list[Way] | str:
    """The ways from a machine; or why it could not be asked."""
    wanted = targets(cluster, source)
    try:
        done = cluster.ssh(source, script(wanted, seconds=_SECONDS * cluster.timeout_factor), seconds=10 + _SECONDS)
    except TimeoutExpired as error:
        return f"no answer within {error.timeout:.0f} s"
    if done.returncode != 0:
        return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
    return read(source.name, wanted, done.stdout)


def script(wanted: Sequence[tuple[str, str, int, str]], *, seconds: int) -> str:
    """The shell lines that open a connection to each target and print a line for each: number, `open` or the reason."""
    tries = "\n".join(f"try {number} {address} {port} &" for number, (_, address, port, _) in enumerate(wanted))
    return f"""
try() {{
  said=$(timeout {seconds} bash -c "exec 3<>/dev/tcp/$2/$3" 2>&1); code=$?
  case $code in
    0) echo "$1 open" ;;
    124) echo "$1 no answer within {seconds} s" ;;
    *) echo "$1 ${{said%%$'\\n'*}}" ;;
  esac
}}
{tries}
wait
"""


def read(source: str, wanted: Sequence[tuple[str, str, int, str]], printed: str) -> list[Way] | str:
    """The ways that a machine has tried; or why its answer is none.

    Args:
        source: the machine.
        wanted: what `targets` returned.
        printed: what the script printed.
    """
    said: Mapping[str, str] = dict(line.split(" ", 1) for line in printed.splitlines() if " " in line)
    if said.keys() != {str(number) for number in range(len(wanted))}:
        return f"{len(said)} of {len(wanted)} answers"
    return [
        Way(source=source, target=name, port=port, what=what, problem=_problem(said[str(number)]))
        for number, (name, _, port, what) in enumerate(wanted)
    ]


def _problem(said: str) -> str:
    return "" if said == "open" else (_REASON.search(said) or [said])[0].strip().lower() or said
