"""What is checked before a restore, and what its scripts do to a machine's directories."""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
from small_lab import cluster, dead, well
from test_snapshot import IDENTITY, database

from live import control_plane, restore
from live.cluster import Cluster
from live.programs import Pod, Unit
from live.restore import Facts, find_problems
from live.snapshot_file import sidecar_of
from toolchain import operations
from toolchain.errors import ToolchainError

UNITS = control_plane._units(control_plane._library(1))
PODS = control_plane._pods(control_plane._library(1), 1)
HAS = Facts(programs=True, unit=True, token="hardway-paper", identity=IDENTITY, free=10**10, control_plane=True)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr("toolchain.paths.checkout", lambda: tmp_path)
    return cluster(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "some.db"
    made.write_bytes(database())
    return made


def facts(lab: Cluster, **others: Facts) -> Mapping[str, Facts]:
    """Machine -> what it has."""
    return {machine.name: HAS for machine in lab.etcd_members} | {
        name.replace("_", "-"): has for name, has in others.items()
    }


def test_a_good_snapshot_and_all_machines_there_is_no_problem(lab: Cluster, file: Path) -> None:
    assert find_problems(lab, file, well(lab), facts(lab)) == []


def test_a_dead_worker_or_balancer_is_no_hindrance(lab: Cluster, file: Path) -> None:
    probes = dead(well(lab), "worker-0", "load-balancer-0")
    assert find_problems(lab, file, probes, facts(lab)) == []


def test_all_problems_are_reported_together(lab: Cluster, file: Path) -> None:
    file.write_bytes(database()[:-4096])
    bare = replace(HAS, programs=False, identity="")
    there = {name: has for name, has in facts(lab, controller_1=bare).items() if name != "controller-2"}
    found = find_problems(lab, file, dead(well(lab), "controller-2"), there)
    assert len(found) == 3
    assert "does not fit the checksum" in found[0]
    assert found[1].startswith("controller-2 does not answer (No route to host)")
    assert "make replace MACHINE=controller-2" in found[1]
    assert found[2].startswith("controller-1 has no etcd")


def test_another_clusters_snapshot_is_refused(lab: Cluster, file: Path) -> None:
    file.write_bytes(database("cd" * 32))
    (problem,) = find_problems(lab, file, well(lab), facts(lab))
    assert "is not of this lab" in problem
    # Its own sidecar says so, too.
    sidecar_of(file).write_text('{"sha256": "0"}')
    assert len(find_problems(lab, file, well(lab), facts(lab))) == 1


def test_a_disk_that_is_full_is_reported(lab: Cluster, file: Path) -> None:
    (problem,) = find_problems(lab, file, well(lab), facts(lab, controller_0=replace(HAS, free=50 * 2**20)))
    assert problem == "controller-0 has 50 MiB of disk free, 100 MiB are wanted"


def test_members_that_disagree_are_reported(lab: Cluster, file: Path) -> None:
    found = find_problems(lab, file, well(lab), facts(lab, controller_0=replace(HAS, token="hardway-other")))
    assert found == ["the members have different cluster tokens: `make up` gives them one"]


def test_nothing_is_touched_where_a_check_fails(
    lab: Cluster, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def ssh(_: Cluster, machine: object, script: str, **__: object) -> subprocess.CompletedProcess[str]:
        asked.append(script)
        said = (
            f"programs=yes\nunit=yes\ntoken=hardway-paper\nidentity={'cd' * 32}\nfree=99999999999\ncontrol_plane=yes\n"
        )
        return subprocess.CompletedProcess([], 0, said, "")

    monkeypatch.setattr(restore, "probe_all", well)
    monkeypatch.setattr(Cluster, "ssh", ssh)
    with pytest.raises(ToolchainError, match="cannot be restored in the lab paper; nothing was touched"):
        restore.restore(lab, file)
    assert len(asked) == 3
    for script in asked:
        assert "systemctl" not in script
        assert "mv " not in script
        assert " rm " not in script
    # The lock is free again.
    with operations.alone(lab.stack, "a test"):
        pass


def test_every_member_gets_the_same_cluster_and_its_own_name(lab: Cluster) -> None:
    scripts = [restore.data_directory(lab, member, "hardway-paper", 10**9) for member in lab.etcd_members]
    cluster_of_all = (
        "--initial-cluster=controller-0=https://10.0.0.10:2380,controller-1=https://10.0.0.11:2380,"
        "controller-2=https://10.0.0.12:2380"
    )
    for member, script in zip(lab.etcd_members, scripts, strict=True):
        assert f" {cluster_of_all} " in script
        assert f"--name={member.name} " in script
        assert f"--initial-advertise-peer-urls=https://{member.address}:2380 " in script
        assert "--initial-cluster-token=hardway-paper " in script
        assert "--bump-revision=1000000000 " in script
        assert "--mark-compacted" in script
        assert "--skip-hash-check" not in script


class TestDirectories:
    """The scripts, on directories of the test's own, with a systemctl that does nothing."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "machine"
        for name in ("systemctl", "chown"):
            program = root / "bin" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
        # The user etcd is the machine's.
        install = root / "bin" / "install"
        install.write_text('#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"\n')
        install.chmod(0o755)
        (root / "var/lib/etcd").mkdir(parents=True)
        return root

    def run(self, root: Path, script: str) -> str:
        return subprocess.run(
            ["bash", "-c", script.replace("/var/lib/", f"{root}/var/lib/")],
            env={"PATH": f"{root}/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def data(self, root: Path, what: str) -> None:
        """Old data where etcd has them, new ones beside."""
        if what:
            (root / "var/lib/etcd/member").mkdir(exist_ok=True)
            (root / "var/lib/etcd/member/db").write_text(what)

    def prepared(self, root: Path) -> None:
        (root / "var/lib/etcd-restore/data/member").mkdir(parents=True)
        (root / "var/lib/etcd-restore/data/member/db").write_text("restored")

    def test_old_data_are_kept_aside(self, root: Path) -> None:
        self.data(root, "old")
        self.prepared(root)
        said = self.run(root, restore.swap("/var/lib/etcd-restore/before-T1", UNITS))
        assert said == f"{root}/var/lib/etcd-restore/before-T1\n"
        assert (root / "var/lib/etcd/member/db").read_text() == "restored"
        assert (root / "var/lib/etcd-restore/before-T1/member/db").read_text() == "old"

    def test_a_member_without_data_gets_new_ones(self, root: Path) -> None:
        self.prepared(root)
        assert self.run(root, restore.swap("/var/lib/etcd-restore/before-T1", UNITS)) == ""
        assert (root / "var/lib/etcd/member/db").read_text() == "restored"

    def test_a_restore_that_was_killed_before_the_start_keeps_the_old_data_once(self, root: Path) -> None:
        self.data(root, "old")
        for number in range(6):
            self.prepared(root)
            self.run(root, restore.swap(f"/var/lib/etcd-restore/before-T{number}", UNITS))
        self.run(root, restore._KEEP_THE_LAST)
        kept = list((root / "var/lib").glob("etcd-restore/before-*"))
        assert [(each.name, (each / "member/db").read_text()) for each in kept] == [("before-T0", "old")]

    def test_data_that_were_started_count_as_somebodys(self, root: Path) -> None:
        for number in range(5):
            self.data(root, f"written {number}")
            self.prepared(root)
            self.run(root, restore.swap(f"/var/lib/etcd-restore/before-T{number}", UNITS))
            (root / "var/lib/etcd-restore/never-started").unlink()
        self.run(root, restore._KEEP_THE_LAST)
        kept = sorted((root / "var/lib").glob("etcd-restore/before-*"))
        assert [(each / "member/db").read_text() for each in kept] == ["written 2", "written 3", "written 4"]
        assert not (root / "var/lib/etcd-restore/data").exists()


def scripts() -> Iterator[tuple[str, str]]:
    """Name -> what runs on machines, either way."""
    for way, own in (("units", UNITS), ("pods", PODS)):
        for part in fields(own):
            if part.name != "owner":
                yield f"{way}: {part.name}", getattr(own, part.name)
        yield f"{way}: swap", restore.swap("/x", own)
    yield "keep the last", restore._KEEP_THE_LAST
    for name in ("etcd", "kubelet"):
        for made in (Unit(name), Pod(name)):
            for verb in ("pid", "stop", "start", "run_without", "is_changed", "log"):
                yield f"{type(made).__name__} {name}: {verb}", getattr(made, verb)()
            yield f"{type(made).__name__} {name}: run_with", made.run_with("A=$((1 + 1))")


@pytest.mark.parametrize("script", [script for _, script in scripts()], ids=[name for name, _ in scripts()])
def test_what_runs_on_machines_is_sound_bash(script: str) -> None:
    subprocess.run(["bash", "-n", "-c", script], check=True)
