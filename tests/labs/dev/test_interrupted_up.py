"""kill -9 in the middle of the first `up`, at several moments: the next `up` finishes, with nothing repaired by hand.

No state has what such a run has created. The next `up` removes it, and so does `destroy`.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import creation_mark
from config import lab as config
from lab import footprint
from lab.cluster import Cluster
from lab.commands import CHECKOUT, STACK, Ran, Started, exported, pulumi, resources, toolchain
from lab.polling import eventually

pytestmark = pytest.mark.usefixtures("nothing_in_the_state")

_NEIGHBOUR = f"{footprint.PREFIX}-2"
_REMOVES = f"The first up of the lab {STACK}, begun at "


@pytest.fixture(scope="module")
def nothing_in_the_state(empty_stack: None) -> None:
    """No resource: an earlier `up` that the preflight has refused leaves keys, and the next one is not the first."""
    destroy = toolchain("destroy")
    assert destroy.code == 0, destroy.output
    assert resources() == []


@pytest.fixture
def neighbour(settings: config.Lab) -> Iterator[None]:
    """What another lab has on the host, whose name begins with that of this lab. It must stay."""
    label = f"--label=hardway.lab={STACK}-2"
    records = [Path("/var/lib/hardway-labs", f"{STACK}-2{end}") for end in ("", ".keeps-quorum")]
    rule = ["FORWARD", "-s", "192.0.2.1", "-m", "comment", "--comment", _NEIGHBOUR, "-j", "ACCEPT"]

    def iptables(action: str) -> int:
        return subprocess.run(["iptables", "-w", action, *rule], capture_output=True, check=False).returncode

    try:
        footprint.podman("network", "create", label, _NEIGHBOUR)
        footprint.podman(
            *("create", label, f"--network={_NEIGHBOUR}", f"--name={_NEIGHBOUR}-worker-0", settings.node_image, "true")
        )
        for record in records:
            _write_record(record)
        assert iptables("-A") == 0
        yield
        assert footprint.named(_NEIGHBOUR, "ps", "-a", "--format", "{{.Names}}") == [f"{_NEIGHBOUR}-worker-0"]
        assert footprint.named(_NEIGHBOUR, "network", "ls", "--format", "{{.Name}}") == [_NEIGHBOUR]
        assert all(record.exists() for record in records)
        assert iptables("-C") == 0
    finally:
        subprocess.run(["podman", "network", "rm", "-f", _NEIGHBOUR], capture_output=True, check=False)
        for record in records:
            record.unlink(missing_ok=True)
        iptables("-D")


def test_a_destroy_removes_what_no_state_has(settings: config.Lab, neighbour: None) -> None:
    """A lab that nothing removes any more, or the lab of another name that goes with it."""
    up = Started("up")
    up.says("remote:Command readiness-cluster creating")
    up.kill_everything()
    _was_cut_short(up.wait())
    assert resources() == []
    destroy = toolchain("destroy")
    assert destroy.code == 0, destroy.output
    assert _REMOVES in destroy.output
    left = {
        kind: [each for each in found if not each.startswith(_NEIGHBOUR)]
        for kind, found in footprint.of_lab(settings).items()
    }
    assert not any(left.values()), left


def test_before_anything_is_made() -> None:
    """The preflight has passed: the name of the lab is taken, by a key that no state has."""
    up = Started("up")
    up.says("local:Command machines-network creating")
    up.kill_everything()
    _was_cut_short(up.wait())


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
    assert _REMOVES in up.output


def test_plain_pulumi_is_refused() -> None:
    """It would fail at the names of what is there, and say that they are another lab's."""
    preview = toolchain("preview")
    assert preview.code == 0 and _REMOVES in preview.output, preview.output
    refused = pulumi("up", "--yes", "--skip-preview")
    assert refused.code != 0
    assert _REMOVES in refused.output and "`./hardway up -s test`" in refused.output, refused.output


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
    assert _REMOVES in cluster.up.output
    assert not (CHECKOUT / ".state" / STACK / creation_mark.NAME).exists()
    assert cluster.outputs["readiness"]["nodes_ready"] == len(cluster.workers)


def _write_record(record: Path) -> None:
    # The end of another test's lab removes the directory where it is empty.
    while True:
        record.parent.mkdir(exist_ok=True)
        try:
            record.write_text("SHA256:another podman /elsewhere\n")
        except FileNotFoundError:
            continue
        return


def _was_cut_short(up: Ran) -> None:
    assert up.code != 0
    # The recovery of the kill before prints a summary, too.
    assert "Resources:" not in up.output.rpartition("Updating (")[2], f"it had ended before the kill:\n{up.output}"
