"""Drills: faults are injected into a running lab, and their effect is compared with limits.

See docs/drills.md, and catalogue.py for what there is.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from config.machines import Role
from live import cluster as live_cluster
from live.cluster import Cluster
from live.drills import catalogue, report, run
from live.drills.catalogue import Drill, Scene
from live.drills.engine import Engine
from live.drills.faults import check_packet_filter
from live.drills.probes import ETCD_PREFIX, OWN_MEMBER
from live.drills.run import Outcome, undisturbed
from live.drills.workload import Workload
from live.https_api import Api, ApiError
from live.lessons import record
from toolchain import operations
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

INTERRUPTED = "Interrupted; what was broken is repaired."
"""What is said of a run that a signal has ended."""
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main(stack: Stack, names: Sequence[str], json_file: Path | None = None) -> int:
    """Do drills on a running lab, print the table, and have everything as it was before.

    Args:
        stack: the lab's.
        names: which drills; all, where none is named.
        json_file: takes all figures, too.

    Returns:
        0; 1 where a bar was missed, a write was lost, or a drill could not be done to its end.

    Raises:
        ToolchainError: an unknown name, a lab that is not up, or one that a named drill cannot be done on; nothing was
            touched then.
    """
    chosen = catalogue.choose(names)
    record.refuse(stack, "A drill")
    cluster = live_cluster.find(stack)
    drills, lacking = catalogue.split(chosen, cluster)
    refuse(cluster, names, lacking)
    if any(drill.name == "partition" for drill in drills):
        check_packet_filter(cluster, cluster.with_role(Role.CONTROLLER))
    # A signal ends this only after everything is repaired, as after Ctrl-C.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    load = os.getloadavg()
    with operations.without_pulumi(stack, "./hardway drill"):
        outcomes, trouble = _do(drills, cluster)
    if outcomes:
        _console.print(report.table(outcomes))
    for name, lack in lacking.items():
        print(f"{name}: not applicable, and not done: it needs {lack}.")
    print(f"{os.cpu_count()} cores; load before {_load(load)}, after {_load(os.getloadavg())}.")
    if trouble:
        print(f"\nerror: {trouble}", file=sys.stderr)
    missed = [outcome.name for outcome in outcomes if not outcome.passed]
    if missed:
        print(f"Not passed: {', '.join(missed)}.", file=sys.stderr)
    if json_file is not None:
        figures = report.document(stack.name, outcomes, lacking, load_before=load)
        json_file.write_text(json.dumps(figures | {"trouble": trouble}, indent=2) + "\n")
    return 0 if report.passed(outcomes) and not trouble else 1


def refuse(cluster: Cluster, names: Sequence[str], lacking: Mapping[str, str]) -> None:
    """Refuse what cannot be done, before anything is changed.

    All drills together need a lab of high availability, but for those that a lab of one balancer, or of machines that
    are no containers, cannot have. By name, a lab gets every drill that makes sense on it.

    Raises:
        ToolchainError: with the reason, and what can be done instead.
    """
    impossible = [name for name in lacking if name in names] if names else []
    # What needs a power switch may be missing; high availability may not.
    if not names and "partition" in lacking:
        impossible = ["partition"]
    if impossible:
        instead = catalogue.split(catalogue.DRILLS, cluster)[0]
        raise ToolchainError(
            f"The lab {cluster.stack.name} cannot have the drill {impossible[0]}: it needs {lacking[impossible[0]]}. "
            f"Nothing was changed.\nBy name this lab can have: {catalogue.names_of(instead)}."
        )


def _do(drills: Sequence[Drill], cluster: Cluster) -> tuple[list[Outcome], str]:
    """Do drills in their order, and remove all that they made.

    Returns:
        The outcomes of the drills that were done, and why the others were not.
    """
    api, workload = Api(cluster), Workload(cluster)
    scene = Scene(cluster=cluster, engine=Engine(cluster), workload=workload)
    outcomes: list[Outcome] = []
    try:
        run.repair_what_is_left(scene, print)
        workload.remove()
        workload.start()
        for drill in drills:
            outcomes.append(run.run(drill, scene, api, partial(_console.print, markup=False)))
            if outcomes[-1].failure:
                return outcomes, f"After {drill.name} the lab is not healthy; the drills end here."
    except (ToolchainError, ApiError) as error:
        return outcomes, str(error)
    except KeyboardInterrupt:
        return outcomes, INTERRUPTED
    finally:
        with undisturbed():
            _remove(cluster, workload)
    return outcomes, ""


def _remove(cluster: Cluster, workload: Workload) -> None:
    try:
        workload.remove()
        cluster.ssh(cluster.etcd_members[0], f"{OWN_MEMBER}\netcdctl del --prefix {ETCD_PREFIX}")
    except ToolchainError as error:
        print(f"The drills' namespace stays for now, the next run removes it: {error}", file=sys.stderr)


def _load(averages: Sequence[float]) -> str:
    return " ".join(f"{average:.1f}" for average in averages)
