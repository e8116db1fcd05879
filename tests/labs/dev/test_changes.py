"""A changed value changes what depends on it, and nothing else."""

import json
from collections.abc import Iterator

import pytest
import yaml

from lab.cluster import Cluster
from lab.commands import pulumi, toolchain
from lab.polling import eventually
from lab.settings_file import lab_settings

_UNITS = ("kubelet.service", "kube-proxy.service", "containerd.service")


@pytest.fixture(scope="module")
def fewer_pods(cluster: Cluster) -> Iterator[None]:
    """Ten pods less on every worker; as before in the end."""
    with lab_settings(network={"max_pods": 100}):
        yield
    back = toolchain("up")
    assert back.code == 0, back.output


@pytest.mark.usefixtures("fewer_pods")
def test_the_preview_shows_the_changed_steps_and_lines(cluster: Cluster) -> None:
    """A preview that shows a replacement, other steps, or no more than "something changed"."""
    preview = pulumi("preview", "--json")
    assert preview.code == 0, preview.output
    steps = json.loads(preview.output[preview.output.index("{") :])["steps"]
    changed = {step["urn"].rpartition("::")[2]: step["op"] for step in steps if step["op"] != "same"}
    # Each step, and the resource of the same name that shows its script.
    assert changed == {f"{worker.name}-node": "update" for worker in cluster.workers}
    shown = toolchain("preview")
    assert shown.code == 0, shown.output
    assert "- maxPods: 110" in shown.output, shown.output
    assert "+ maxPods: 100" in shown.output


@pytest.mark.usefixtures("fewer_pods")
def test_up_restarts_the_kubelet_alone(cluster: Cluster) -> None:
    """Restarts of what did not change; a kubelet that goes on with its old configuration; a step that forgets its
    files when it runs again.
    """
    before = {worker.name: cluster.unit_starts(worker.name, *_UNITS) for worker in cluster.workers}
    files = {worker.name: _files(cluster, worker.name) for worker in cluster.workers}
    up = toolchain("up")
    assert up.code == 0, up.output
    assert up.summary["updated"] == 2 * len(cluster.workers), up.output
    assert up.summary.keys() == {"updated", "unchanged"}
    for worker in cluster.workers:
        after = cluster.unit_starts(worker.name, *_UNITS)
        assert [unit for unit in _UNITS if after[unit] != before[worker.name][unit]] == ["kubelet.service"]
        assert _files(cluster, worker.name) == files[worker.name]
        kubelet = eventually(
            f"the kubelet of {worker.name} answers",
            lambda name=worker.name: yaml.safe_load(cluster.raw(f"/api/v1/nodes/{name}/proxy/configz")),  # type: ignore[misc]
            seconds=60,
        )
        assert kubelet["kubeletconfig"]["maxPods"] == 100


def _files(cluster: Cluster, machine: str) -> str:
    return cluster.ssh(machine, "find /etc/kubernetes /var/lib/kubelet/pki -printf '%m %u %p\\n' | sort")
