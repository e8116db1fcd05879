"""`./hardway drift` and `./hardway repair` as a whole."""

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from live import cluster, power
from live.cluster import Cluster
from live.drift import all_machines, containers, nodes, objects, recorded
from live.drift import repair as repairing
from live.drift.compare import API, Difference, compare
from live.nodes import now
from live.waiting import still_missing
from toolchain import operations, prepare
from toolchain.progress import Report
from toolchain.stack import Stack

NONE, FOUND, NOT_ASKED = 0, 1, 2
"""The exit codes of `drift`."""
_SERVE_LEADERS = frozenset({"etcd.service", "kube-apiserver.service"})
_LEADER = "kube-scheduler.service"
_LEADERS_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What differs in a lab.

    Args:
        stack: which lab.
        differences: all that differs, by machines in the order of the lab; then the API.
        not_asked: machine, or "API", or "container engine" -> why it could not be asked: nothing is known of it.
    """

    stack: str
    differences: list[Difference]
    not_asked: dict[str, str]

    @property
    def exit_code(self) -> int:
        """What is not known counts more than what differs."""
        if self.not_asked:
            return NOT_ASKED
        return FOUND if self.differences else NONE

    def json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self), indent=2)


def find(stack: Stack) -> Drift:
    """Compare a lab with its state.

    Raises:
        ToolchainError: the lab is not up, or its state cannot be read.
    """
    lab = cluster.find(stack, part_too=True)
    deployment = state_of(stack)
    return _find(lab, deployment, recorded.steps(deployment))


def repair(stack: Stack, machines: Sequence[str]) -> int:
    """Put back what differs, say what was done, and compare again.

    Args:
        stack: which lab; no other run is at work on it.
        machines: names; empty for all and the API.

    Returns:
        The exit code of `drift` afterwards, of these machines.

    Raises:
        ToolchainError: a name is wrong, and nothing was changed; or as `find`.
    """
    lab = cluster.find(stack, part_too=True)
    for name in machines:
        lab.machine(name)
    deployment = state_of(stack)
    steps = recorded.steps(deployment)
    before = _only(_find(lab, deployment, steps), machines)
    said = recorded.read(steps)
    outcome = _repaired(lab, steps, said, before.differences)
    if outcome.started & _SERVE_LEADERS and any(_LEADER in machine.units for machine in said.values()):
        outcome.failed += _leaders_missing(lab)
    after = _only(_find(lab, deployment, steps), machines) if before.differences else before
    # A machine that was lost is said once, with what was not repaired there.
    others = {name: why for name, why in after.not_asked.items() if name not in outcome.lost}
    for line in outcome.lines():
        print(line)
    if after.differences or others or not outcome.lost:
        print("\n".join(lines(replace(after, not_asked=others))))
    return after.exit_code or (FOUND if outcome.lines() else NONE)


def _leaders_missing(lab: Cluster) -> list[str]:
    """Wait until controller manager and scheduler lead; what does not at the deadline.

    One that could not renew its lease for 10 s ends, also some seconds after etcd and the API server are back. systemd
    starts it again, and it leads once its own old lease has expired.
    """
    since = now()
    return still_missing(lambda: power.leaders_missing(lab, since), lab.allowed(_LEADERS_SECONDS))


def put_back(lab: Cluster, deployment: Mapping[str, Any], *, seconds: float) -> Drift:
    """Put back all that differs, and compare until nothing differs or the deadline is over.

    What could not be asked at first, as an API that the repair itself starts again, is asked again.

    Args:
        lab: no other run is at work on it.
        deployment: its state, as `state_of` reads it.
        seconds: the deadline, before the lab's `timeout_factor`.

    Returns:
        What is left.
    """
    steps = recorded.steps(deployment)
    said = recorded.read(steps)
    found = _find(lab, deployment, steps)

    def left() -> Drift | None:
        nonlocal found
        _repaired(lab, steps, said, found.differences)
        found = _find(lab, deployment, steps)
        return found if found.exit_code != NONE else None

    if found.exit_code != NONE:
        still_missing(left, lab.allowed(seconds))
    return found


def _repaired(
    lab: Cluster, steps: list[recorded.Step], said: Mapping[str, recorded.Recorded], differences: Sequence[Difference]
) -> repairing.Outcome:
    """Put back what differs, once: the steps on machines, then the Nodes."""
    works, left = repairing.plan(steps, said, differences)
    outcome = repairing.run(lab, works)
    outcome.failed += nodes.repair(lab, nodes.expected(lab, said), left)
    return outcome


def _only(drift: Drift, machines: Sequence[str]) -> Drift:
    """What concerns these machines; all of it if there are none."""
    if not machines:
        return drift
    return Drift(
        stack=drift.stack,
        differences=[each for each in drift.differences if each.machine in machines],
        not_asked={name: why for name, why in drift.not_asked.items() if name in machines},
    )


def state_of(stack: Stack) -> dict[str, Any]:
    """The state of a lab, secrets in clear.

    Raises:
        ToolchainError: it cannot be read.
    """
    with Report(sys.stderr) as report:
        workshop = prepare.for_preview(report, stack)
    return operations.state_in_clear(workshop, stack)


def _find(lab: Cluster, deployment: Mapping[str, Any], steps: list[recorded.Step]) -> Drift:
    said = recorded.read(steps)
    with ThreadPoolExecutor(max_workers=2) as threads:
        in_api = threads.submit(objects.ask, lab, said)
        on_engine = threads.submit(containers.ask, lab.stack, deployment)
        answers = all_machines.ask(lab, said)
        different, why = in_api.result()
        other, engine_why = on_engine.result()
    differences = [
        each for name, found in answers.items() if not isinstance(found, str) for each in compare(said[name], found)
    ]
    not_asked = {name: found for name, found in answers.items() if isinstance(found, str)}
    not_asked |= {API: why} if why else {}
    not_asked |= {containers.ENGINE: engine_why} if engine_why else {}
    return Drift(stack=lab.stack.name, differences=[*differences, *other, *different], not_asked=not_asked)


def lines(drift: Drift) -> Sequence[str]:
    """The report for a person: a table, what could not be asked, and a verdict."""
    rows = [("machine", "what", "name", "problem")]
    rows += [(each.machine, each.kind, each.name, "; ".join(each.problems.values())) for each in drift.differences]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    said = []
    if drift.differences:
        said = ["  ".join([*(f"{row[i]:{widths[i]}}" for i in range(3)), row[3]]).rstrip() for row in rows]
    said += [f"{name} could not be asked: {why}" for name, why in drift.not_asked.items()]
    number = len(drift.differences)
    if number:
        said.append(
            f"{number} difference{'s' if number > 1 else ''}. "
            f"`./hardway repair -s {drift.stack}` puts back what the state says."
        )
    elif not drift.not_asked:
        said.append(f"No drift: the lab {drift.stack} is as its state says.")
    return said
