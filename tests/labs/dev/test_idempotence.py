"""What is done is not done again."""

import json
from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.commands import SETTINGS, pulumi, toolchain


def test_a_preview_right_after_up_finds_no_change(cluster: Cluster) -> None:
    """Inputs that differ from run to run: times, random values, the order of a set."""
    preview = pulumi("preview", "--expect-no-changes", "--json")
    assert preview.code == 0, preview.output
    report = json.loads(preview.output[preview.output.index("{") :])
    assert report["changeSummary"].keys() == {"same"}
    assert report["changeSummary"]["same"] > 50


def test_make_preview_says_so(cluster: Cluster) -> None:
    """`./hardway preview` that shows something to change where there is nothing."""
    preview = toolchain("preview")
    assert preview.code == 0, preview.output
    assert preview.summary.keys() == {"unchanged"}, preview.output


def test_the_critical_path_of_the_lab_is_shown(cluster: Cluster, tmp_path: Path) -> None:
    """A path that does not end with the lab, that leaves time out, or that no machine has a time for."""
    file = tmp_path / "path.json"
    shown = toolchain("bench", "--path", "--json", str(file))
    assert shown.code == 0, shown.output
    path = json.loads(file.read_text())
    assert path["not_asked"] == {}
    assert path["legs"][-1]["name"].startswith("readiness-")
    assert sum(leg["takes"] for leg in path["legs"]) == pytest.approx(path["seconds"])
    assert all(leg["takes"] > 0 for leg in path["legs"])
    # The last `up` had not much to do: it has finished one that was killed.
    assert any(leg["script_began"] for leg in path["legs"]), shown.output


def test_there_is_no_drift(cluster: Cluster) -> None:
    """A report of differences that are none: what a step does in another way than its script says."""
    drift = toolchain("drift")
    assert drift.code == 0, drift.output


def test_a_second_up_changes_nothing(cluster: Cluster) -> None:
    """An `up` that runs steps again, restarts what runs, or leaves its mark on a file under version control."""
    units = ("etcd.service", "kube-apiserver.service", "kube-controller-manager.service", "kube-scheduler.service")
    starts, settings = cluster.unit_starts(cluster.controller.name, *units), SETTINGS.read_bytes()
    up = toolchain("up")
    assert up.code == 0, up.output
    assert up.summary.keys() == {"unchanged"}, up.output
    assert cluster.unit_starts(cluster.controller.name, *units) == starts
    assert SETTINGS.read_bytes() == settings
