"""`./hardway scale`: requests, memory and failovers of a running lab at more and more Nodes, which KWOK simulates."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from config.machines import Role
from live import cluster as live_cluster
from live import drills
from live.cluster import Cluster
from live.drills import catalogue
from live.https_api import ApiError
from live.scale import figures, simulation
from live.scale.figures import Latency
from toolchain.errors import ToolchainError
from toolchain.exclusive import HeldError, held_or_refused
from toolchain.progress import Report
from toolchain.stack import Stack

PODS_PER_NODE = 5
_DRILLS = ("kill-kube-apiserver", "stop-leader")
_COMMANDS = (("status",), ("drift",))
_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class Size:
    """What was measured at one number of Nodes.

    Args:
        nodes, pods: simulated ones.
        nodes_ready: seconds until all Nodes were Ready, from the size before.
        pods_run: seconds until all Pods ran, after that.
        requests: kind -> how long they took.
        memory: component -> MiB, on the machine where it is largest.
        database: MiB of etcd's data that is in use.
        commands: command -> its seconds.
        failover: drill and number -> seconds; None where the number did not come.
        load: of the Pulumi host, before this size: the average of 1 minute.
        trouble: what could not be measured, and why.
    """

    nodes: int
    pods: int
    nodes_ready: float
    pods_run: float
    requests: dict[str, Latency]
    memory: dict[str, float]
    database: float
    load: float
    commands: dict[str, float] = field(default_factory=dict)
    failover: dict[str, float | None] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)


def main(stack: Stack, sizes: Sequence[int], *, seconds: float, json_file: Path | None = None) -> int:
    """Measure a running lab at each size, print the table, and remove all that was simulated.

    Args:
        stack: the lab's.
        sizes: numbers of simulated Nodes.
        seconds: how long requests are measured, at each number.
        json_file: takes all figures, too.

    Returns:
        0; 1 where something could not be measured.

    Raises:
        ToolchainError: the lab is not up, KWOK cannot be had, another run simulates Nodes there, they do not become
            Ready, or the API gives no good answer.
    """
    # Whatever ends this removes what was simulated.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    load = os.getloadavg()
    cluster = live_cluster.find(stack)
    possible = {drill.name for drill in catalogue.split(catalogue.DRILLS, cluster)[0]}
    drills_of_lab = [name for name in _DRILLS if name in possible]
    with Report(sys.stderr) as report:
        kwok = simulation.program(report)
    measured: list[Size] = []
    try:
        with (
            held_or_refused(stack.directory / "scale.lock", what=f"./hardway scale, process {os.getpid()}"),
            simulation.simulating(cluster, kwok, stack.directory / simulation.LOG),
        ):
            for nodes in sorted(set(sizes)):
                print(f"{nodes} simulated Nodes with {PODS_PER_NODE * nodes} Pods ...", file=sys.stderr)
                measured.append(_measure(cluster, nodes, seconds, drills_of_lab))
            print("Removing the simulated Nodes ...", file=sys.stderr)
    except ApiError as error:
        raise ToolchainError(f"The API of {stack.name}: {error}") from error
    except HeldError as error:
        raise ToolchainError(f"Nodes are simulated on {stack.name} already ({error}).") from None
    finally:
        # Also what was measured before an error.
        if measured:
            show(measured)
            if json_file is not None:
                figures_ = document(cluster, measured, seconds=seconds, load_before=load)
                json_file.write_text(json.dumps(figures_, indent=2) + "\n")
    return 1 if any(each.trouble for each in measured) else 0


def document(
    cluster: Cluster, measured: Sequence[Size], *, seconds: float, load_before: Sequence[float]
) -> dict[str, Any]:
    """All figures, and where they were measured, as JSON can hold them; docs/scale.json is such a file."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "kubernetes": cluster.stack.kubernetes,
        "controllers": len(cluster.with_role(Role.CONTROLLER)),
        "workers": len(cluster.with_role(Role.WORKER)),
        "cores": os.cpu_count(),
        "seconds": seconds,
        "load_before": list(load_before),
        "load_after": list(os.getloadavg()),
        "sizes": [asdict(each) for each in measured],
    }


def show(measured: Sequence[Size]) -> None:
    """Print the figures, a column for each size."""
    table = Table(box=None, pad_edge=False)
    for title in ("", *(f"{each.nodes} NODES" for each in measured)):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for row in rows(measured):
        table.add_row(*row)
    # As wide as it is: a narrower terminal, or a file, would cut the figures.
    Console(highlight=False, soft_wrap=True, width=_WIDTH).print(table)
    for each in measured:
        for trouble in each.trouble:
            print(f"{each.nodes} Nodes: {trouble}", file=sys.stderr)


def rows(measured: Sequence[Size]) -> list[list[str]]:
    """The table's rows: what, then a figure for each size."""
    found = [
        ["pods", *(str(each.pods) for each in measured)],
        ["nodes ready, s", *(f"{each.nodes_ready:.1f}" for each in measured)],
        ["pods run, s", *(f"{each.pods_run:.1f}" for each in measured)],
    ]
    for kind in dict.fromkeys(kind for each in measured for kind in each.requests):
        known = [each.requests.get(kind) for each in measured]
        found.append([f"{kind}, number", *("-" if each is None else str(each.count) for each in known)])
        found.append([f"{kind}, ms, median", *("-" if each is None else f"{each.median:.1f}" for each in known)])
        found.append([f"{kind}, ms, p99", *("-" if each is None else f"{each.p99:.1f}" for each in known)])
    found += [[f"{name}, MiB", *(f"{each.memory[name]:.0f}" for each in measured)] for name in figures.COMPONENTS]
    found.append(["etcd's data, MiB", *(f"{each.database:.1f}" for each in measured)])
    found.append(["load before", *(f"{each.load:.1f}" for each in measured)])
    for attribute in ("commands", "failover"):
        names = dict.fromkeys(name for each in measured for name in getattr(each, attribute))
        found += [
            [f"{name}, s", *(_seconds(getattr(each, attribute).get(name)) for each in measured)] for name in names
        ]
    return found


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _measure(cluster: Cluster, nodes: int, seconds: float, names: Sequence[str]) -> Size:
    load, began = os.getloadavg()[0], time.monotonic()
    simulation.create_nodes(cluster, nodes)
    ready = time.monotonic()
    simulation.create_pods(cluster, PODS_PER_NODE * nodes)
    size = Size(
        nodes=nodes,
        pods=PODS_PER_NODE * nodes,
        nodes_ready=ready - began,
        pods_run=time.monotonic() - ready,
        requests=figures.requests(cluster, seconds),
        memory=figures.memory(cluster),
        database=figures.database(cluster),
        load=load,
    )
    for words in _COMMANDS:
        try:
            size.commands[" ".join(words)] = figures.command(cluster, *words)
        except ToolchainError as error:
            size.trouble.append(str(error))
    if names:
        _failovers(cluster, names, size)
    if late := simulation.not_ready(cluster):
        size.trouble.append(f"{late} Pods were marked not Ready: the Leases of their Nodes were renewed too late")
    return size


def _failovers(cluster: Cluster, names: Sequence[str], size: Size) -> None:
    with TemporaryDirectory() as directory:
        file = Path(directory) / "drills.json"
        try:
            if drills.main(cluster.stack, names, file):
                size.trouble.append("a drill was not passed: see above")
        except (ToolchainError, ApiError) as error:
            size.trouble.append(str(error))
            return
        document = json.loads(file.read_text())
        if document["trouble"] == drills.INTERRUPTED:
            # It has repaired what it broke, and returned.
            raise KeyboardInterrupt
        for drill in document["drills"]:
            for result in drill["results"]:
                size.failover[f"{drill['name']}: {result['what']}"] = result["seconds"]
