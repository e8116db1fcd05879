"""kill -9 in the middle of `up`, at several moments: the next `up` finishes, with nothing repaired by hand."""

import pytest

from lab import footprint
from lab.cluster import Cluster
from lab.commands import Ran, Started, exported, toolchain
from lab.polling import eventually

pytestmark = pytest.mark.usefixtures("empty_stack")


def test_while_the_machines_are_made() -> None:
    """Containers that are half made, or made and not in the state: the next `up` would trip over their names.

    All processes die at once, as with the machine's power. Meanwhile a second `up` is refused, or both would change
    the same machines.
    """
    up = Started("up")
    up.says("local:Command machines-worker-1 creating")
    # Or it would be far beyond the machines when the other one has been refused.
    up.freeze()
    second = toolchain("up")
    assert second.code != 0
    assert "Another run is at work on the stack test" in second.output, second.output
    up.kill_everything()
    _was_cut_short(up.wait())


def test_while_etcd_is_made() -> None:
    """A CLI that dies alone: plugins that go on without it, a stale lock, a step that is still at work."""
    up = Started("up")
    up.says("remote:Command etcd-controller-0 creating")
    assert up.kill_cli(), up.output
    _was_cut_short(up.wait())
    eventually("the plugins end with their engine", lambda: not up.processes(), seconds=60)


def test_while_the_workers_are_made() -> None:
    """Steps that cannot be run again over their own half."""
    up = Started("up")
    up.says("remote:Command worker-1-node creating")
    up.kill_everything()
    _was_cut_short(up.wait())


def test_the_next_up_finishes(cluster: Cluster) -> None:
    """A lab that needs repair by hand: pending operations in the state, machines twice or not at all."""
    assert '"pending_operations"' not in exported()
    containers = footprint.named(footprint.PREFIX, "ps", "--format", "{{.Names}}")
    assert containers == sorted(f"{footprint.PREFIX}-{machine.name}" for machine in cluster.machines)
    assert cluster.outputs["readiness"]["nodes_ready"] == len(cluster.workers)


def _was_cut_short(up: Ran) -> None:
    assert up.code != 0
    # The recovery of the kill before prints a summary, too.
    assert "Resources:" not in up.output.rpartition("Updating (")[2], f"it had ended before the kill:\n{up.output}"
