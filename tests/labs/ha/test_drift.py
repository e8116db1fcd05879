"""`./hardway drift` and `repair` on a lab with several controllers: a change on each kind of machine, and nothing else.

HARDWAY_SEED says which changes (others every time; the seed is printed).
"""

from collections.abc import Collection, Mapping
from shlex import quote

import pytest

from config.machines import Role
from lab import mutations
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.kills import SEED
from lab.session import Show
from labs.dev.test_drift import check_changes, named
from live.drift import recorded, run
from live.drift.recorded import Recorded
from toolchain import stack

pytestmark = pytest.mark.long

_ROUNDS = 3
_NEVER_CHANGED = "0"


def test_a_change_on_each_kind_of_machine_is_repaired_and_nothing_else_is_written(cluster: Cluster, show: Show) -> None:
    """A file of another machine that a repair writes again; a unit that restarts where nothing differs."""
    name = cluster.settings.name
    machines = recorded.read(recorded.steps(run.state_of(stack.read(name))))
    # Tests before this one have restarted units and put files back.
    repaired = toolchain("repair", stack=name)
    assert repaired.code == run.NONE, repaired.output
    assert named(name) == (run.NONE, set())
    for seed in range(SEED, SEED + _ROUNDS):
        chosen = [
            mutation
            for role in (Role.LOAD_BALANCER, Role.CONTROLLER, Role.WORKER)
            for machine in (cluster.settings.with_role(role)[seed % len(cluster.settings.with_role(role))].name,)
            for mutation in mutations.choose({machine: machines[machine]}, seed, 1)
        ]
        show(f"drift: seed {seed}: " + ", ".join(f"{each.action} of {' '.join(each.named)}" for each in chosen) + "\n")
        before = changes(cluster, machines)
        check_changes(cluster, machines, chosen, f"seed {seed}", rename=False)
        written = {place for place, when in changes(cluster, machines).items() if when != before[place]}
        assert written <= {(machine, path) for each in chosen for machine, path in _places(each, machines)}
    assert named(name) == (run.NONE, set())


def changes(cluster: Cluster, machines: Mapping[str, Recorded]) -> dict[tuple[str, str], str]:
    """(machine, path) -> when its content, mode or owner was last written, of all files that the steps made.

    Not of directories: programs write into theirs.
    """
    found: dict[tuple[str, str], str] = {}
    for name, machine in machines.items():
        files = [path for path, file in machine.files.items() if file.content is not None]
        paths = [*files, *machine.programs, *machine.links]
        said = cluster.ssh(name, f"stat -c '%Z %n' {' '.join(map(quote, paths))} 2>&1 || true")
        times = dict(line.split(" ", 1)[::-1] for line in said.splitlines() if line)
        found |= {(name, path): times.get(path, _NEVER_CHANGED) for path in paths}
    return found


def _places(mutation: mutations.Mutation, machines: Mapping[str, Recorded]) -> Collection[tuple[str, str]]:
    """What a change and its repair may write."""
    unit = machines[mutation.machine].units.get(mutation.named[2])
    paths = {mutation.named[2], *mutation.claims, *(unit.watches if unit else ())}
    return {(mutation.machine, path) for path in paths}
