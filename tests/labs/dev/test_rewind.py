"""A lab that is saved and rewound: what came after the save is gone, and nothing is to be changed afterwards."""

import json
import time

import pytest

from config import paths
from lab.cluster import Cluster
from lab.commands import STACK, live, toolchain
from lab.session import Show
from lab.workload import Workload

_EARLY, _LATE, _SAVE = "before-the-save", "after-the-save", "test-rewind"
_BAR = 10.0
"""Seconds from the start of the command until DNS answers, on a host that does nothing else."""


@pytest.fixture(scope="module")
def save(workload: Workload) -> str:
    """A save of the lab with its pods, and with one object in it."""
    workload.cluster.kubectl("create", "configmap", _EARLY)
    ran = live("save", _SAVE, "--json")
    assert ran.code == 0, ran.output
    said, _ = json.JSONDecoder().raw_decode(ran.output, ran.output.index("{"))
    assert {machine["name"] for machine in said["machines"]} == {each.name for each in workload.cluster.machines}
    return _SAVE


def config_maps(cluster: Cluster) -> set[str]:
    return {item["metadata"]["name"] for item in cluster.get("configmaps")["items"]}


def test_a_save_is_listed_and_for_root_alone(save: str) -> None:
    """Keys of the lab that others may read."""
    ran = live("saves")
    assert ran.code == 0 and [line.split()[0] for line in ran.output.splitlines()] == ["save", save], ran.output
    place = paths.state() / STACK / "saves"
    assert {file.stat().st_mode & 0o077 for file in (place, *place.rglob("*"))} == {0}


def test_a_rewound_lab_is_what_it_was(workload: Workload, save: str) -> None:
    """Machines and state of different times; disks that are put back half; a lab that `up` would change."""
    cluster = workload.cluster
    pods = {pod.name for pod in workload.web}
    worker = cluster.workers[0].name
    cluster.kubectl("create", "configmap", _LATE)
    cluster.kubectl("delete", "configmap", _EARLY)
    cluster.ssh(worker, "rm -rf /etc/kubernetes /var/lib/kubelet/config.yaml; echo after >/etc/after")
    ran = toolchain("rewind", save)
    assert ran.code == 0, ran.output
    found = config_maps(cluster)
    assert _EARLY in found and _LATE not in found
    assert cluster.ssh(worker, "ls /etc/after 2>&1 || true").startswith("ls: cannot access")
    preview = toolchain("preview")
    assert preview.summary.keys() == {"unchanged"}, preview.output
    workload.wait_until_ready()
    assert pods and {pod.name for pod in workload.web} == pods
    drift = toolchain("drift")
    assert drift.code == 0, drift.output


@pytest.mark.long
def test_a_lab_is_rewound_twenty_times(workload: Workload, save: str, show: Show) -> None:
    """What grows with each rewind, or is put back only the first time."""
    cluster = workload.cluster
    taken = []
    for number in range(20):
        cluster.kubectl("create", "configmap", _LATE)
        began = time.monotonic()
        ran = toolchain("rewind", save)
        taken.append(time.monotonic() - began)
        assert ran.code == 0, ran.output
        show(f"rewind {number + 1}: healthy, with DNS, after {taken[-1]:.1f} s")
        assert _LATE not in config_maps(cluster)
    preview = toolchain("preview")
    assert preview.summary.keys() == {"unchanged"}, preview.output
    assert sorted(taken)[len(taken) // 2] < _BAR, taken


def test_a_save_is_removed(workload: Workload, save: str) -> None:
    """Disk that is never free again."""
    ran = live("saves", "--remove", save)
    assert ran.code == 0, ran.output
    assert live("saves").output.startswith(f"The lab {STACK} has no saves: ")
    workload.cluster.kubectl("delete", "configmap", _EARLY)
