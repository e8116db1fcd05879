"""`./hardway repair`: puts back what `drift` names, by running the steps that made it again, as the state has them.

A step compares before it writes, takes the machine's lock, and restarts a unit only where what the unit was started
from has changed. What a step cannot see by itself is written before its first line: the note of what a unit was
started with is removed, so that the step restarts or reloads that unit.
"""

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote

from config.machine_paths import HOSTS_UNIT, POD_NETWORK_UNIT
from live.cluster import Cluster
from live.drift.compare import Difference
from live.drift.recorded import Recorded, Step, Unit

_SECONDS = 600
_LAST_LINE = 'succeeded "$@"'
_REPORTED_LINES = 5
_NOT_REACHED, _TIMEOUT = 255, 124
_STEPS = "/var/lib/hardway/steps"
_METADATA = frozenset({"mode", "owner"})


@dataclass(kw_only=True)
class Work:
    """What one step is run again for.

    Args:
        step: which.
        differences: what it puts back.
        before: shell lines before the step's first one; `$step` is the step's directory on the machine.
        repaired_later: units of the machine that a later step repairs: this one does not wait for them.
        restarts, reloads: units.
        restarts_itself: units that no step starts, but the program that made them.
    """

    step: Step
    differences: list[Difference] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    repaired_later: list[str] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    reloads: list[str] = field(default_factory=list)
    restarts_itself: list[str] = field(default_factory=list)

    @property
    def script(self) -> str:
        """The step's script with these lines in it."""
        notes = [f"repaired_later={quote(' '.join(self.repaired_later))}"] if self.repaired_later else []
        notes += [f'rm -f "$step/started/{unit}"' for unit in self.restarts]
        notes += [f'rm -f "$step/started/{unit}.read"' for unit in self.reloads]
        # Nothing else tells the next run of a restart that this one did not reach.
        notes += [f'install -d "$step/due"; touch "$step/due/{unit}"' for unit in self.restarts_itself]
        begin = f"\nbegin {self.step.name}\n"
        head, found, rest = self.step.script.partition(begin)
        script = "".join([head, found, *(f"{line}\n" for line in (*self.before, *notes)), rest])
        after = "".join(
            f'systemctl daemon-reload\nsystemctl restart {unit}\nrm -f "$step/due/{unit}"\n'
            for unit in self.restarts_itself
        )
        return script.replace(f"\n{_LAST_LINE}\n", f"\n{after}{_LAST_LINE}\n", 1)


def plan(
    steps: Sequence[Step], recorded: Mapping[str, Recorded], differences: Iterable[Difference]
) -> tuple[list[Work], list[Difference]]:
    """The steps to run, in an order that works, and what no step can put back."""
    works: dict[str, Work] = {}
    by_urn = {step.urn: step for step in steps}
    left = []
    for difference in differences:
        if difference.step not in by_urn:
            left.append(difference)
            continue
        work = works.setdefault(difference.step, Work(step=by_urn[difference.step]))
        work.differences.append(difference)
        machine = recorded[difference.name if difference.kind == "node" else work.step.machine]
        work.before += _before(machine, difference)
        for name, unit, how in _units(machine, difference):
            other = works.setdefault(unit.step, Work(step=by_urn[unit.step]))
            restarts = other.restarts if unit.by_step else other.restarts_itself
            units = restarts if how == "restart" else other.reloads
            if name not in units:
                units.append(name)
    ordered = [works[step.urn] for step in steps if step.urn in works]
    for number, work in enumerate(ordered):
        later = {each.step.urn for each in ordered[number + 1 :]}
        there = recorded[work.step.machine].units
        work.repaired_later = [name for name, unit in there.items() if unit.step in later]
    return ordered, left


def _before(machine: Recorded, difference: Difference) -> Iterator[str]:
    """What has to be done before a step can put something back."""
    path = quote(difference.name)
    if difference.kind == "file":
        file = machine.files[difference.name]
        if "owner" in difference.problems:
            # Not every step has the owner of a directory, and an earlier library of the steps compares no group.
            # A user that is missing is made by the step.
            yield f"! id -u {file.owner} >/dev/null 2>&1 || chown --no-dereference {file.owner}:{file.owner} {path}"
        if difference.problems.keys() <= _METADATA:
            # Its time of change is now later than the start of the units that have read it, without a change of what
            # they read: their notes are, too.
            for name, unit in machine.units.items():
                if difference.name in unit.reads:
                    note = f"{_STEPS}/{unit.step_name}/started/{name}"
                    yield f"touch --no-create {note} {note}.read"
    elif difference.kind == "program":
        program = machine.programs[difference.name]
        # What the machine has downloaded or unpacked is the lab's; a mirror is the Pulumi host's.
        if "artifact" in difference.problems and not program.mirrored and program.sha256 is not None:
            yield f"rm -f {quote(program.source(difference.name))}"
        if program.archive is not None:
            yield f"rm -rf {quote(program.target.removesuffix(f'/{program.member}'))}"
    elif difference.kind == "unit":
        if "masked" in difference.problems:
            yield f"systemctl -q unmask {path}; systemctl -q unmask --runtime {path}"
        if "disabled" in difference.problems or "masked" in difference.problems:
            yield f"systemctl -q enable --no-reload {path} 2>/dev/null || true"


def _units(machine: Recorded, difference: Difference) -> Iterator[tuple[str, Unit, str]]:
    """The units that are restarted or reloaded for a difference."""
    units = machine.units
    if difference.kind in ("file", "program"):
        if difference.problems.keys() <= _METADATA:
            # The unit has read the same.
            return
        for name, unit in units.items():
            if difference.name in (*unit.own, *unit.watches):
                yield name, unit, "restart"
            elif difference.name in unit.reloads_on:
                yield name, unit, "reload"
    elif difference.kind == "unit":
        # A step starts by itself what does not run. What is only not enabled runs.
        restarts_itself = not units[difference.name].by_step and difference.problems.keys() != {"disabled"}
        if "stale" in difference.problems or restarts_itself:
            yield difference.name, units[difference.name], "restart"
    elif difference.kind == "host table":
        yield HOSTS_UNIT, units[HOSTS_UNIT], "reload"
    elif difference.kind in ("route", "rules"):
        yield POD_NETWORK_UNIT, units[POD_NETWORK_UNIT], "reload"
    elif difference.kind == "node" and "missing" in difference.problems:
        # A kubelet registers its Node when it starts.
        yield "kubelet.service", units["kubelet.service"], "restart"


@dataclass(kw_only=True)
class Outcome:
    """How a repair went.

    Args:
        failed: a line for each step that failed, and for each leader that has not come back.
        started: the units that were started or restarted.
        lost: machine -> why it was not reached any more.
        left: machine -> what was not repaired for that reason.
    """

    failed: list[str] = field(default_factory=list)
    started: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For a person; one for each machine that was lost, whatever number of steps it has."""
        return [
            *self.failed,
            *(
                f"{name} was not reached any more: {why}. Not repaired there: {', '.join(self.left[name])}. "
                "When it answers, run `./hardway repair` again."
                for name, why in self.lost.items()
            ),
        ]


def run(cluster: Cluster, works: Sequence[Work]) -> Outcome:
    """Run the steps, and say what each did; a machine that is not reached any more gets no further step.

    A step may wait for what a later one repairs, as a restart of etcd for the members on other machines. So the steps
    that failed are run once more if a later one has succeeded.
    """
    outcome = Outcome()
    again = _run_each(cluster, works, outcome)
    if again:
        outcome.failed.clear()
        _run_each(cluster, again, outcome)
    return outcome


def _run_each(cluster: Cluster, works: Sequence[Work], outcome: Outcome) -> list[Work]:
    """The steps that failed, if a later one has succeeded."""
    failed: list[Work] = []
    again: list[Work] = []
    for work in works:
        step = work.step
        what = [f"{each.kind} {each.name}" for each in work.differences]
        if step.machine not in outcome.lost:
            status, said = _run_step(cluster, work)
            if status == 0:
                units = [each.name for each in work.differences if each.kind == "unit"]
                outcome.started.update(units, work.restarts, work.restarts_itself)
                what += [f"restarted {unit}" for unit in (*work.restarts, *work.restarts_itself)]
                what += [f"reloaded {unit}" for unit in work.reloads]
                print(f"{step.machine}: {'; '.join(what)}", flush=True)
                again = list(failed)
                continue
            if status != _NOT_REACHED:
                outcome.failed.append(f"step {step.name} on {step.machine} failed: {said or f'exit status {status}'}")
                failed.append(work)
                continue
            outcome.lost[step.machine] = (said.splitlines() or ["ssh ended with status 255"])[-1].rstrip(".")
        what = what or [f"restart of {unit}" for unit in (*work.restarts, *work.restarts_itself, *work.reloads)]
        outcome.left.setdefault(step.machine, []).extend(what)
    return again


def _run_step(cluster: Cluster, work: Work) -> tuple[int, str]:
    """The step's exit status, and the end of what it said if it failed; 255 is ssh's own."""
    step = work.step
    try:
        # `updated`: the step has a resource already.
        script = f"exec bash -s -- {step.name} on {step.machine}, updated"
        machine = cluster.machine(step.machine)
        done = cluster.ssh(machine, script, stdin=work.script, seconds=_SECONDS, keepalive=True)
    except subprocess.TimeoutExpired:
        return _TIMEOUT, f"not done within {cluster.allowed(_SECONDS):.0f} s"
    # What it prints may be secret.
    return done.returncode, "\n".join(done.stderr.strip().splitlines()[-_REPORTED_LINES:]) if done.returncode else ""
