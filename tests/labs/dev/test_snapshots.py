"""A cluster that is saved, loses its data, and is what it was; and files that are no way back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.commands import live
from lab.polling import eventually
from lab.workload import Workload
from live.snapshot_file import sidecar_of

_EARLY, _LATE = "saved-early", "made-late"


@pytest.fixture(scope="module")
def snapshot(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of the lab with its pods, and with one object in it that is deleted later."""
    cluster = workload.cluster
    cluster.kubectl("create", "configmap", _EARLY)
    file = tmp_path_factory.mktemp("snapshots") / "lab.db"
    ran = live("snapshot", str(file))
    assert ran.code == 0, ran.output
    assert f"taken from  {cluster.controller.name}, the leader" in ran.output
    return file


def test_snapshot_is_complete_private_and_described(cluster: Cluster, snapshot: Path) -> None:
    """A snapshot that others may read, or that nobody can tell from another."""
    assert [file.stat().st_mode & 0o777 for file in (snapshot, sidecar_of(snapshot))] == [0o600, 0o600]
    said = json.loads(sidecar_of(snapshot).read_text())
    assert said["member"] == cluster.controller.name
    assert said["kubernetes"] == f"v{cluster.outputs['versions']['kubernetes']}"
    assert said["etcd"] == cluster.outputs["versions"]["etcd"]
    assert said["size"] == snapshot.stat().st_size
    assert said["lab"].encode() in snapshot.read_bytes()


def test_the_timer_takes_snapshots_on_the_member(cluster: Cluster) -> None:
    """A unit that never runs, keeps nothing, or lets others read it."""
    where = "/var/lib/etcd-snapshots"
    said = cluster.ssh(
        cluster.controller.name,
        f"systemctl is-active etcd-snapshot.timer && systemctl start etcd-snapshot.service && cd {where} && "
        "stat -c %a . etcd-*.db && etcdutl snapshot status -w json $(ls | tail -n 1)",
    ).splitlines()
    assert said[:2] == ["active", "700"]
    assert set(said[2:-1]) == {"600"}
    assert json.loads(said[-1])["totalKey"] > 100


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda data: data[:-4096], "does not match the checksum at its end"),
        (lambda data: data[:70000] + bytes([data[70000] ^ 1]) + data[70001:], "does not match the checksum at its end"),
        (lambda data: b"hello", "is no etcd snapshot"),
    ],
    ids=["cut", "changed", "no snapshot"],
)
def test_bad_snapshot_is_refused_and_nothing_is_changed(
    cluster: Cluster, snapshot: Path, tmp_path: Path, harm: Callable[[bytes], bytes], says: str
) -> None:
    """A restore that stops the cluster before it has looked at the file."""
    units = ("etcd.service", "kube-apiserver.service")
    before = cluster.unit_starts(cluster.controller.name, *units)
    bad = tmp_path / "bad.db"
    bad.write_bytes(harm(snapshot.read_bytes()))
    ran = live("restore", str(bad))
    assert ran.code == 1
    assert "nothing was changed" in ran.output
    assert says in ran.output
    assert cluster.unit_starts(cluster.controller.name, *units) == before


@pytest.mark.long
def test_saved_data_are_restored_after_all_members_lost_theirs(
    workload: Workload, snapshot: Path, tmp_path: Path
) -> None:
    """A restore that loses objects or pods, or whose revisions come a second time."""
    cluster = workload.cluster
    cluster.kubectl("delete", "configmap", _EARLY)
    cluster.kubectl("create", "configmap", _LATE)
    late = int(cluster.get("configmap", _LATE)["metadata"]["resourceVersion"])
    pods = {pod.name for pod in workload.web}
    controller = cluster.controller.name
    cluster.ssh(controller, "systemctl kill -s KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member")
    # As it is when it was copied off a member: without its sidecar.
    bare = tmp_path / "bare.db"
    shutil.copy(snapshot, bare)
    ran = live("restore", str(bare))
    assert ran.code == 0, ran.output
    # Its scripts have held the machine's lock, which keeps steps out.
    assert cluster.ssh(controller, "cat /var/lib/hardway/lock").startswith("./hardway restore of ")
    eventually("the API through the balancer", lambda: cluster.raw("/readyz") == "ok", seconds=60)
    names = {item["metadata"]["name"] for item in cluster.get("configmaps")["items"]}
    assert _EARLY in names
    assert _LATE not in names
    cluster.kubectl("delete", "configmap", _EARLY)
    cluster.kubectl("create", "configmap", _LATE)
    # The late revisions were lost with all data: what counts from is the snapshot's, which was before them.
    revision = int(cluster.get("configmap", _LATE)["metadata"]["resourceVersion"])
    saved = json.loads(sidecar_of(snapshot).read_text())["revision"]
    assert revision > saved + 10**9 > late
    cluster.kubectl("delete", "configmap", _LATE)
    workload.wait_until_ready()
    assert {pod.name for pod in workload.web} == pods
    eventually("a healthy lab", lambda: live("status").code == 0, seconds=90, report=lambda: live("status").output)
