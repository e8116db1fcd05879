"""`./hardway bench --path`: where the last `up` that changed a lab spent its time, from the state and the machines.

Pulumi's state has when each resource was ready, and which others it waited for. From the last resource back, each one
waited for that of its dependencies which was ready last: the critical path. A step's machine has when its script began
(the time of the lock file that the script writes first), and when the units of the step were started.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from live import cluster
from live.cluster import Cluster, LiveMachine
from live.drift import recorded
from toolchain import operations, prepare
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.stack import Stack

_CHANGES = frozenset({"create", "update", "replace", "create-replacement"})
_SECONDS = 20
# Systemd has the time of a start by the clock that a boot begins with; both clocks are read at once.
_LOOK = (
    "echo now $(date +%s.%N) $(cut -d' ' -f1 /proc/uptime)\n"
    "stat -c 'lock %n %.Y' /var/lib/hardway/steps/*/lock\n"
    "while read -r unit; do\n"
    '  echo unit "$unit" "$(systemctl show -p ExecMainStartTimestampMonotonic --value "$unit")"\n'
    "done\n"
    "echo end\n"
)
_LOCK = re.compile(r"lock /var/lib/hardway/steps/([^/]+)/lock ([0-9.]+)$")
_UNIT = re.compile(r"unit (\S+) ([0-9]+)$")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A resource that the run made or changed.

    Args:
        urn: its own.
        ready: when, as a UNIX time.
        needs: the URNs of those that it waited for.
    """

    urn: str
    ready: float
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As previews show it."""
        return self.urn.rpartition("::")[2]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a machine has, times as UNIX times.

    Args:
        scripts: step -> when its script began.
        units: unit -> when its process was started; units that others start are missing.
    """

    scripts: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One resource on the critical path. Times in seconds since the run began.

    Args:
        name: of the resource.
        machine: of its step; empty where it is no step.
        could_begin: when all that it waited for was ready.
        script_began: when its script began on the machine; None where it is no step, or has run again since.
        ready: when it was ready.
        units: unit of the step -> when its process was started.
    """

    name: str
    machine: str
    could_begin: float
    script_began: float | None
    ready: float
    units: Mapping[str, float]

    @property
    def takes(self) -> float:
        """Seconds."""
        return self.ready - self.could_begin


@dataclass(frozen=True, kw_only=True)
class CriticalPath:
    """Of one run.

    Args:
        stack: which lab.
        began: when the run began, as ISO 8601; Pulumi keeps full seconds.
        seconds: until its last resource was ready.
        changed: how many resources it made or changed.
        legs: in their order; each begins when the one before is ready.
        not_asked: machine -> why it could not be asked.
    """

    stack: str
    began: str
    seconds: float
    changed: int
    legs: Sequence[Leg]
    not_asked: Mapping[str, str]

    def json(self) -> str:
        """For programs."""
        return json.dumps(
            {**asdict(self), "legs": [{**asdict(leg), "takes": leg.takes} for leg in self.legs]}, indent=2
        )


def find(stack: Stack) -> CriticalPath:
    """The critical path of the last run that changed the lab. Each machine of the path is asked once.

    Raises:
        ToolchainError: the lab is not up, its state cannot be read, or no run is on record.
    """
    lab = cluster.find(stack)
    with Report() as report:
        workshop = prepare.for_preview(report, stack)
    with ThreadPoolExecutor(max_workers=2) as threads:
        history = threads.submit(operations.history, workshop, stack)
        deployment = operations.state_in_clear(workshop, stack)
        began, ended = last_change(history.result(), stack)
    works = changed_between(deployment, began, ended)
    path = path_of(works)
    if not path:
        raise ToolchainError(
            f"The state of the lab {stack.name} has no resource of its last run, which began at "
            f"{_shown(began)}: the lab was rewound since."
        )
    steps = {step.urn: step for step in recorded.steps(deployment)}
    units = recorded.read(list(steps.values()))
    names = {steps[work.urn].machine for work in path if work.urn in steps}
    machines = [machine for machine in lab.machines if machine.name in names]
    with ThreadPoolExecutor(max_workers=max(1, len(machines))) as threads:
        asked = threads.map(lambda machine: _ask(lab, machine, list(units[machine.name].units)), machines)
        answers = dict(zip((machine.name for machine in machines), asked, strict=True))
    return CriticalPath(
        stack=stack.name,
        began=_shown(began),
        seconds=path[-1].ready - began,
        changed=len(works),
        legs=list(legs(path, began, steps, units, answers)),
        not_asked={name: answer for name, answer in answers.items() if isinstance(answer, str)},
    )


def last_change(history: Sequence[Mapping[str, Any]], stack: Stack) -> tuple[float, float]:
    """When the last run that changed something began and ended, as UNIX times.

    Args:
        history: what `pulumi stack history --json` prints, the last run first.
        stack: which lab.

    Raises:
        ToolchainError: there is none.
    """
    for run in history:
        if run["kind"] == "update" and _CHANGES & (run.get("resourceChanges") or {}).keys() and "endTime" in run:
            # The end is in full seconds, cut off.
            return _time(run["startTime"]), _time(run["endTime"]) + 1
    raise ToolchainError(f"No `up` that has changed the lab {stack.name} is on record: run `./hardway up` first.")


def changed_between(deployment: Mapping[str, Any], began: float, ended: float) -> dict[str, Work]:
    """URN -> each resource that was made or changed in this time. Components are no work: they only have children.

    Args:
        deployment: what `pulumi stack export` prints.
        began, ended: UNIX times.
    """
    works = {}
    for resource in deployment.get("deployment", {}).get("resources", []):
        if not resource.get("custom") or resource.get("delete") or not resource.get("modified"):
            continue
        ready = _time(resource["modified"])
        if began <= ready <= ended:
            provider = str(resource.get("provider", "")).rpartition("::")[0]
            needs = (*resource.get("dependencies", ()), *([provider] if provider else ()))
            works[resource["urn"]] = Work(urn=resource["urn"], ready=ready, needs=needs)
    return works


def path_of(works: Mapping[str, Work]) -> list[Work]:
    """From the first resource that others waited for to the last one that was ready; empty without any."""
    path: list[Work] = []
    work = max(works.values(), key=lambda each: each.ready, default=None)
    while work is not None:
        path.append(work)
        # One that was ready later is no reason to wait: in a run with replacements the state has both.
        needs = [works[urn] for urn in work.needs if urn in works and works[urn].ready < work.ready]
        work = max(needs, key=lambda each: each.ready, default=None)
    return path[::-1]


def legs(
    path: Sequence[Work],
    began: float,
    steps: Mapping[str, recorded.Step],
    units: Mapping[str, recorded.Recorded],
    answers: Mapping[str, Seen | str],
) -> Iterator[Leg]:
    """The path, with what the machines have seen of it.

    Args:
        path: of the run.
        began: when the run began, as a UNIX time.
        steps: URN -> step.
        units: machine -> what its steps put there.
        answers: machine -> what it has, or why it could not be asked.
    """
    could_begin = began
    for work in path:
        step = steps.get(work.urn)
        answer = answers.get(step.machine) if step else None
        seen = answer if isinstance(answer, Seen) else Seen()
        script_began = seen.scripts.get(step.name) if step else None
        if script_began is not None and not could_begin <= script_began <= work.ready:
            script_began = None
        own = [name for name, unit in units[step.machine].units.items() if unit.step == work.urn] if step else []
        yield Leg(
            name=work.name,
            machine=step.machine if step else "",
            could_begin=could_begin - began,
            script_began=None if script_began is None else script_began - began,
            ready=work.ready - began,
            units={
                name: seen.units[name] - began
                for name in own
                if name in seen.units and could_begin <= seen.units[name] <= work.ready
            },
        )
        could_begin = work.ready


def lines(found: CriticalPath) -> list[str]:
    """The report for a person."""
    rows = [("on the critical path", "machine", "begins", "script", "ready", "takes", "units started at")]
    rows += [
        (
            leg.name,
            leg.machine,
            f"{leg.could_begin:.1f}",
            "" if leg.script_began is None else f"{leg.script_began:.1f}",
            f"{leg.ready:.1f}",
            f"{leg.takes:.1f}",
            ", ".join(
                f"{unit.removesuffix('.service')} {at:.1f}"
                for unit, at in sorted(leg.units.items(), key=lambda each: each[1])
            ),
        )
        for leg in found.legs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    said = [
        "  ".join(
            cell.ljust(width) if column in (0, 1, 6) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    said += [f"{name} could not be asked: {why}" for name, why in found.not_asked.items()]
    said.append(
        f"{found.changed} resources were made or changed in {found.seconds:.1f} s, from {found.began[:19]} on; "
        f"{len(found.legs)} of them one after the other."
    )
    return said


def parse(said: str) -> Seen:
    """What the script on a machine has printed.

    Raises:
        ValueError: it has not printed all.
    """
    first, *rest = said.splitlines() or [""]
    word, *clocks = first.split()
    if word != "now" or len(clocks) != 2 or rest[-1:] != ["end"]:
        raise ValueError("its answer is not complete")
    boot = float(clocks[0]) - float(clocks[1])
    scripts = {found[1]: float(found[2]) for line in rest if (found := _LOCK.match(line))}
    # 0 is a unit that has not been started, or has no process of its own.
    units = {found[1]: boot + int(found[2]) / 1e6 for line in rest if (found := _UNIT.match(line)) and int(found[2])}
    return Seen(scripts=scripts, units=units)


def _ask(lab: Cluster, machine: LiveMachine, units: Sequence[str]) -> Seen | str:
    try:
        done = lab.ssh(machine, _LOOK, stdin="".join(f"{unit}\n" for unit in units), seconds=_SECONDS)
        return parse(done.stdout)
    except subprocess.TimeoutExpired:
        return f"no answer within {lab.allowed(_SECONDS):.0f} s"
    except ValueError as error:
        return (done.stderr.strip().splitlines() or [str(error)])[-1]


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat()


def _time(text: str) -> float:
    """The UNIX time of a time in a state, which has up to nine digits of a second."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()
