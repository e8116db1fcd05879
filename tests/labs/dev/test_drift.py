"""`./hardway drift` on a lab: nothing where nothing has changed, and each change by its name; `repair` puts it back.

HARDWAY_SEED says which changes the long run makes (others every time; the seed is printed).
"""

import json
import os
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import pytest

from lab import mutations
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.footprint import podman
from lab.mutations import Mutation
from lab.session import Show
from live.drift import recorded, run
from live.drift.recorded import Recorded
from toolchain import stack

_KUBECONFIG = "/etc/kubernetes/kubelet.kubeconfig"
_LEADERS = ("kube-controller-manager.service", "kube-scheduler.service")
_SERVE_LEADERS = ("etcd.service", "kube-apiserver.service")
_EVERY_RUN = (4, 1, 14)
_LEFT_TO_THE_LONG_RUN = (
    # Tests after this one use pods that nothing makes again.
    "no node",
    "no user",
    "no rules",
    "other data",
    "unconfigured package",
    "mask",
    "touched unit file",
    "touched file of what it triggers",
    "no unit to trigger",
    "no link",
    "chmod a directory",
    "group of a directory",
)
_IDLE_RUNS = 20
_LONG = (int(os.environ.get("HARDWAY_SEED") or random.randrange(10**6)), 7, 15)


def named(name: str) -> tuple[int, set[tuple[str, str, str]]]:
    """The exit code of `drift`, and what it names."""
    ran = toolchain("drift", "--json", stack=name)
    # pytest shows it if the test fails: the names do not say what is wrong with what they name.
    print(ran.output)
    # Progress stands before it.
    said, _ = json.JSONDecoder().raw_decode(ran.output, ran.output.index("{"))
    assert said["not_asked"] == {}, ran.output
    return ran.code, {(each["machine"], each["kind"], each["name"]) for each in said["differences"]}


def starts(cluster: Cluster, machines: Mapping[str, Recorded]) -> dict[tuple[str, str], int]:
    """(machine, unit) -> when it was last started."""
    return {
        (name, unit): start
        for name, machine in machines.items()
        for unit, start in cluster.unit_starts(name, *machine.units).items()
    }


@contextmanager
def renamed_container(machine: str, lab: str) -> Iterator[tuple[str, str, str]]:
    """What `drift` names of a machine whose container has another name. No repair changes containers."""
    container = f"hardway-{lab}-{machine}"
    podman("rename", container, f"{container}-aside")
    try:
        yield machine, "container", container
    finally:
        podman("rename", f"{container}-aside", container)


def check_round(
    cluster: Cluster, machines: Mapping[str, Recorded], seed: int, number: int, *, without: Collection[str] = ()
) -> None:
    """Make changes; they and no others are named; a repair puts them back and restarts what read them."""
    chosen = mutations.choose(machines, seed, number, without=without)
    assert len(chosen) == number
    check_changes(cluster, machines, chosen, f"seed {seed}", rename=not without)


def check_changes(
    cluster: Cluster, machines: Mapping[str, Recorded], chosen: Sequence[Mutation], said: str, *, rename: bool
) -> None:
    """As `check_round`, for these changes; with `rename` a container has another name meanwhile, too."""
    name = cluster.settings.name
    for machine, script in mutations.scripts(chosen).items():
        cluster.ssh(machine, script)
    expected_names = {mutation.named for mutation in chosen}.union(*(each.also_named for each in chosen))
    with renamed_container(cluster.balancer.name, name) if rename else nullcontext() as container:
        code, found = named(name)
    expected_names |= {container} if container else set()
    assert (code, found) == (run.FOUND, expected_names), said
    before = starts(cluster, machines)
    repaired = toolchain("repair", stack=name)
    assert repaired.code == run.NONE, repaired.output
    restarted = {each for each, start in starts(cluster, machines).items() if start != before[each]}
    expected = {(mutation.restarts_on or mutation.machine, unit) for mutation in chosen for unit in mutation.restarts}
    if any(unit in _SERVE_LEADERS for _, unit in expected):
        # They end by themselves when their lease cannot be renewed in time.
        expected |= {(machine, unit) for machine, unit in restarted if unit in _LEADERS}
    assert restarted == expected, repaired.output


@pytest.mark.parametrize(
    ("seed", "rounds", "number"),
    [_EVERY_RUN, pytest.param(*_LONG, marks=pytest.mark.long)],
    ids=["every-run", "long"],
)
def test_changes_are_found_by_name_and_put_back(
    cluster: Cluster, show: Show, seed: int, rounds: int, number: int
) -> None:
    """A drift that no preview shows; a report of what nobody changed; a repair that restarts more than it must."""
    name = cluster.settings.name
    machines = recorded.read(recorded.steps(run.state_of(stack.read(name))))
    # Tests before this one have restarted units and put files back.
    repaired = toolchain("repair", stack=name)
    assert repaired.code == run.NONE, repaired.output
    assert named(name) == (run.NONE, set())
    for each in range(rounds):
        show(f"drift: {number} changes, seed {seed + each}")
        without = _LEFT_TO_THE_LONG_RUN if rounds == 1 else ()
        check_round(cluster, machines, seed + each, number, without=without)
    assert named(name) == (run.NONE, set())


@pytest.mark.long
def test_nothing_is_named_where_nothing_has_changed(cluster: Cluster, show: Show) -> None:
    """A report of what a lab changes by itself: a token, a lease, a route that is set again."""
    name = cluster.settings.name
    seconds = []
    for _ in range(_IDLE_RUNS):
        started = time.monotonic()
        assert named(name) == (run.NONE, set())
        seconds.append(time.monotonic() - started)
    show(f"drift: {len(seconds)} runs, none found, {min(seconds):.1f} to {max(seconds):.1f} s\n")


def test_a_machine_lost_in_the_middle_of_a_repair_is_repaired_by_the_next_run(cluster: Cluster, show: Show) -> None:
    """A report for each of its steps; another machine that is not repaired; a second run that has nothing to do."""
    name = cluster.settings.name
    lost, other = (worker.name for worker in cluster.workers[:2])
    changes = {
        (lost, "sysctl", "net.ipv4.ip_forward"): "sysctl -qw net.ipv4.ip_forward=0",
        (lost, "file", _KUBECONFIG): f"chmod 0640 {_KUBECONFIG}",
        (other, "file", _KUBECONFIG): f"chmod 0640 {_KUBECONFIG}",
    }
    for (machine, *_), script in changes.items():
        cluster.ssh(machine, script)
    previewed = toolchain("preview", "--drift", stack=name)
    assert previewed.code == 0 and "3 differences." in previewed.output, previewed.output
    # When the first step of the repair takes its lock, the machine closes all connections, and accepts no other.
    cluster.ssh(
        lost,
        "systemd-run --quiet --unit=no-ssh --path-property=PathModified=/var/lib/hardway/steps/host/lock "
        "sh -c 'systemctl stop ssh.service; pkill -KILL -x sshd; pkill -KILL sshd-session'",
    )
    try:
        show(f"drift: a repair, and {lost} is lost in the middle")
        repaired = toolchain("repair", stack=name)
    finally:
        # The service may have failed: it stays in the list of units then, where `status` finds it.
        back = (
            "systemctl stop no-ssh.path no-ssh.service; systemctl reset-failed no-ssh.service; "
            "systemctl start ssh.service"
        )
        podman("exec", f"hardway-{name}-{lost}", "sh", "-c", back)
    # The other one may answer again, by `finally`, before the comparison at the end asks it.
    assert repaired.code in (run.FOUND, run.NOT_ASKED), repaired.output
    assert f"{other}: file {_KUBECONFIG}\n" in repaired.output
    (report,) = (line for line in repaired.output.splitlines() if line.startswith(f"{lost} was not reached any more: "))
    assert f"file {_KUBECONFIG}" in report
    assert "could not be asked" not in repaired.output
    repaired = toolchain("repair", stack=name)
    assert repaired.code == run.NONE, repaired.output
    assert f"{lost}: file {_KUBECONFIG}\n" in repaired.output
    assert f"{other}:" not in repaired.output
    assert named(name) == (run.NONE, set())
