"""What is done is not done again."""

import json

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
