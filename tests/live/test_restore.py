"""What is checked before a restore, and what its scripts do to a machine's directories."""

import fcntl
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
from small_lab import cluster, dead, own_backend, well
from test_snapshot import IDENTITY, database

from live import control_plane, restore
from live.cluster import Cluster, LiveMachine
from live.control_plane import ControlPlane
from live.programs import Pod, Unit
from live.restore import Facts, find_problems
from live.snapshot_file import sidecar_of
from toolchain import operations
from toolchain.errors import ToolchainError
from toolchain.recovery import locks_of

UNITS = control_plane._units(control_plane._library(1))
PODS = control_plane._pods(control_plane._library(1), 1)
HAS = Facts(programs=True, unit=True, token="hardway-paper", identity=IDENTITY, free=10**10, control_plane=True)


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_backend(tmp_path, monkeypatch)


@pytest.fixture
def lab(tmp_path: Path, backend: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
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
    assert "does not match the checksum" in found[0]
    assert found[1].startswith("controller-2 does not answer (No route to host)")
    assert "./hardway replace controller-2" in found[1]
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
    assert found == ["the members have different cluster tokens: `./hardway up` gives them one"]


def test_nothing_is_changed_if_a_check_fails(
    lab: Cluster, file: Path, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    locked: list[str] = []

    def ssh(_: Cluster, machine: object, script: str, **__: object) -> subprocess.CompletedProcess[str]:
        asked.append(script)
        locked.extend(lock.command for lock in locks_of(backend, lab.stack))
        said = (
            f"programs=yes\nunit=yes\ntoken=hardway-paper\nidentity={'cd' * 32}\nfree=99999999999\ncontrol_plane=yes\n"
        )
        return subprocess.CompletedProcess([], 0, said, "")

    monkeypatch.setattr(restore, "probe_all", well)
    monkeypatch.setattr(Cluster, "ssh", ssh)
    with pytest.raises(ToolchainError, match="cannot be restored in the lab paper; nothing was changed"):
        restore.restore(lab, file)
    assert len(asked) == 3
    for script in asked:
        assert "systemctl" not in script
        assert "mv " not in script
        assert " rm " not in script
    # Pulumi's own lock was held before the first question, and all is free again.
    assert locked == ["./hardway restore"] * 3
    with operations.without_pulumi(lab.stack, "a test"):
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


class Members:
    """What machines that hold a snapshot of this lab are asked in a restore, and what they answer.

    Args:
        fails_at: a line of the script that fails on controller-1.
        revision: the highest in the data that lie on the members.
    """

    def __init__(self, *, fails_at: str = "", revision: int = 0) -> None:
        self.fails_at, self.revision = fails_at, revision
        self.asked: list[tuple[str, str]] = []
        self.locked: list[str] = []

    def change(self, machine: LiveMachine, script: str, **more: object) -> subprocess.CompletedProcess[str]:
        assert more["command"] == "./hardway restore"
        self.locked.append(script)
        return self.ssh(machine, script)

    def ssh(self, machine: LiveMachine, script: str, **_: object) -> subprocess.CompletedProcess[str]:
        self.asked.append((machine.name, script))
        if self.fails_at and self.fails_at in script and machine.name == "controller-1":
            return subprocess.CompletedProcess([], 1, "", "mv: cannot move '/var/lib/etcd/member': busy")
        said = "\n".join(
            [
                f"programs=yes\nunit=yes\ntoken=hardway-paper\nidentity={IDENTITY}\nfree=99999999999",
                f"control_plane=yes\nrevision={self.revision}\n",
            ]
        )
        return subprocess.CompletedProcess(
            [], 0, '{"revision": 7}' if script.startswith("etcdutl snapshot") else said, ""
        )

    def where(self, line: str) -> list[str]:
        """The machines that were sent a script with this line, in order."""
        return sorted(name for name, script in self.asked if line in script)


@pytest.fixture
def restoring(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[Members], None]:
    """A restore in a lab whose machines answer so; etcd answers on none of them."""

    def run(members: Members) -> None:
        silent = [replace(each, answers={}) for each in well(lab)]
        monkeypatch.setattr(restore, "probe_all", lambda _: silent)
        monkeypatch.setattr(restore, "_upload", lambda *_: None)
        monkeypatch.setattr(restore, "_nodes", lambda *_: None)
        monkeypatch.setattr(Cluster, "ssh", lambda _, *words, **more: members.ssh(*words, **more))
        monkeypatch.setattr(Cluster, "change", lambda _, *words, **more: members.change(*words, **more))
        snapshot = lab.stack.settings_file.with_name("paper.db")
        snapshot.write_bytes(database())
        restore.restore(lab, snapshot)

    return run


CONTROLLERS = ["controller-0", "controller-1", "controller-2"]


@pytest.mark.parametrize(
    ("fails_at", "swapped"),
    [("mv -T /var/lib/etcd-restore/data/member", CONTROLLERS), ("ln -sfn /dev/null", [])],
    ids=["swap", "stop"],
)
def test_no_member_starts_where_one_has_failed(
    restoring: Callable[[Members], None], fails_at: str, swapped: list[str]
) -> None:
    """Members with new data beside one with old data: acknowledged writes that differ for good."""
    members = Members(fails_at=fails_at)
    with pytest.raises(ToolchainError) as refused:
        restoring(members)
    assert members.where("ln -sfn /dev/null /etc/systemd/system.control/etcd.service") == CONTROLLERS
    assert members.where("mv -T /var/lib/etcd-restore/data/member") == swapped
    assert members.where("rm -f /var/lib/etcd-restore/never-started /etc/systemd/system.control") == []
    assert members.where("systemctl start") == []
    said = str(refused.value)
    assert "controller-1: mv: cannot move '/var/lib/etcd/member': busy" in said
    assert "etcd.service is masked on controller-0, controller-1, controller-2" in said
    assert "also after a reboot" in said
    assert "./hardway restore -s paper " in said


def test_all_members_are_masked_before_one_gets_new_data_and_swapped_before_one_starts(
    restoring: Callable[[Members], None],
) -> None:
    members = Members()
    restoring(members)
    kinds = [
        kind
        for _, script in members.asked
        for kind, line in (
            ("mask", "ln -sfn /dev/null"),
            ("swap", "mv -T /var/lib/etcd-restore/data/member"),
            ("start", "start --no-block etcd.service"),
        )
        if line in script
    ]
    assert kinds == ["mask"] * 3 + ["swap"] * 3 + ["start"] * 3


def test_every_script_but_the_questions_holds_the_machines_lock(restoring: Callable[[Members], None]) -> None:
    members = Members()
    restoring(members)
    unlocked = [script for _, script in members.asked if script not in members.locked]
    assert len(unlocked) == 3
    assert all("echo programs=yes" in script for script in unlocked)


def test_every_restore_makes_a_cluster_of_its_own(restoring: Callable[[Members], None]) -> None:
    """A member that missed the swap has the token of the cluster before: the others refuse it."""
    tokens: list[str] = []
    for _ in range(2):
        members = Members()
        restoring(members)
        found = {
            re.findall(r"--initial-cluster-token=(\S+)", script)[0]
            for _, script in members.asked
            if "snapshot restore" in script
        }
        assert len(found) == 1
        tokens += found
    assert tokens[0] != tokens[1]
    assert all(re.fullmatch("hardway-paper-[0-9a-f]{16}", token) for token in tokens)


def test_the_revision_exceeds_that_of_data_whose_etcd_does_not_run(restoring: Callable[[Members], None]) -> None:
    """A restore that is run again finds no member that answers: revisions that watchers have seen came again."""
    members = Members(revision=3 * 10**9)
    restoring(members)
    bumps = {
        re.findall(r"--bump-revision=(\d+)", script)[0] for _, script in members.asked if "snapshot restore" in script
    }
    assert bumps == {str(10**9 + 3 * 10**9 - 7)}


class TestDirectories:
    """The scripts, on directories of the test's own, with a systemctl that only notes what it is told."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "machine"
        for name, text in (
            ("systemctl", f'echo "$*" >>{root}/systemctl.log'),
            ("chown", ""),
            # The user etcd is the machine's.
            ("install", 'for last; do :; done\nmkdir -p "$last"'),
            ("etcdutl", 'sed -n "s/^/{\\"revision\\":/; s/$/}/p" "$3"'),
        ):
            program = root / "bin" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        (root / "var/lib/etcd").mkdir(parents=True)
        (root / "etc/systemd").mkdir(parents=True)
        return root

    def run(self, root: Path, script: str, *, fails: bool = False) -> str:
        done = subprocess.run(
            [
                "bash",
                "-c",
                script.replace("/var/lib/", f"{root}/var/lib/").replace("/etc/systemd", f"{root}/etc/systemd"),
            ],
            env={"PATH": f"{root}/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    def data(self, root: Path, what: str) -> None:
        """Old data where etcd has them."""
        (root / "var/lib/etcd/member/snap").mkdir(parents=True, exist_ok=True)
        (root / "var/lib/etcd/member/snap/db").write_text(what)

    def prepared(self, root: Path) -> None:
        (root / "var/lib/etcd-restore/data/member/snap").mkdir(parents=True)
        (root / "var/lib/etcd-restore/data/member/snap/db").write_text("restored")

    def copies(self, root: Path) -> list[tuple[str, str]]:
        kept = sorted((root / "var/lib").glob("etcd-restore/before-*"))
        return [(each.name, (each / "member/snap/db").read_text()) for each in kept]

    def test_old_data_are_kept_aside(self, root: Path) -> None:
        self.data(root, "old")
        self.prepared(root)
        said = self.run(root, restore.swap("/var/lib/etcd-restore/before-T1", UNITS))
        assert said == f"{root}/var/lib/etcd-restore/before-T1\n"
        assert (root / "var/lib/etcd/member/snap/db").read_text() == "restored"
        assert self.copies(root) == [("before-T1", "old")]

    def test_a_member_without_data_gets_new_ones(self, root: Path) -> None:
        self.prepared(root)
        assert self.run(root, restore.swap("/var/lib/etcd-restore/before-T1", UNITS)) == ""
        assert (root / "var/lib/etcd/member/snap/db").read_text() == "restored"

    def test_without_new_data_the_old_ones_stay_where_they_are(self, root: Path) -> None:
        self.data(root, "old")
        said = self.run(root, restore.swap("/var/lib/etcd-restore/before-T1", UNITS), fails=True)
        assert "etcd-restore/data/member is not there" in said
        assert (root / "var/lib/etcd/member/snap/db").read_text() == "old"

    def test_data_that_cannot_be_moved_stay_and_leave_no_empty_copy(self, root: Path) -> None:
        self.data(root, "old")
        self.prepared(root)
        (root / "bin/mv").write_text("#!/bin/sh\necho 'Device or resource busy' >&2\nexit 1\n")
        (root / "bin/mv").chmod(0o755)
        said = self.run(root, restore.swap("/var/lib/etcd-restore/before-T1", UNITS), fails=True)
        assert "Device or resource busy" in said
        assert (root / "var/lib/etcd/member/snap/db").read_text() == "old"
        assert self.copies(root) == []

    def test_a_restore_that_was_killed_before_the_start_keeps_the_old_data_once(self, root: Path) -> None:
        self.data(root, "old")
        for number in range(6):
            self.prepared(root)
            self.run(root, restore.swap(f"/var/lib/etcd-restore/before-20261128T00000{number}Z", UNITS))
        self.run(root, restore.KEEP_THE_LAST)
        assert self.copies(root) == [("before-20261128T000000Z", "old")]

    @pytest.mark.parametrize("marker", ["", "that of an earlier version"])
    def test_a_marker_that_is_left_from_another_restore_deletes_nothing(self, root: Path, marker: str) -> None:
        """etcd was started by another program since, at a boot for instance: the data are live."""
        self.data(root, "live")
        (root / "var/lib/etcd-restore").mkdir()
        (root / "var/lib/etcd-restore/never-started").write_text(marker)
        self.prepared(root)
        self.run(root, restore.swap("/var/lib/etcd-restore/before-T1", UNITS))
        assert self.copies(root) == [("before-T1", "live")]

    @pytest.mark.parametrize("write", ["written", "touched", "a file more", "replaced"])
    def test_restored_data_that_etcd_has_started_on_are_kept(self, root: Path, write: str) -> None:
        self.prepared(root)
        self.run(root, restore.swap("/var/lib/etcd-restore/before-T1", UNITS))
        db = root / "var/lib/etcd/member/snap/db"
        match write:
            case "written":
                db.write_text("restored and written")
            case "touched":
                os.utime(db, ns=(1, 1))
            case "a file more":
                (db.parent / "0.tmp").touch()
            case "replaced":
                shutil.copy2(db, db.with_name("new"))
                db.with_name("new").rename(db)
        self.prepared(root)
        self.run(root, restore.swap("/var/lib/etcd-restore/before-T2", UNITS))
        assert [name for name, _ in self.copies(root)] == ["before-T2"]

    def test_the_last_three_copies_are_kept_and_nothing_of_anybody_elses_goes(self, root: Path) -> None:
        others = root / "var/lib/etcd-restore/before-my-change"
        others.mkdir(parents=True)
        for number in range(5):
            self.data(root, f"written {number}")
            self.prepared(root)
            self.run(root, restore.swap(f"/var/lib/etcd-restore/before-20261128T00000{number}Z", UNITS))
        self.run(root, restore.KEEP_THE_LAST)
        assert others.exists()
        others.rmdir()
        assert [what for _, what in self.copies(root)] == ["written 2", "written 3", "written 4"]
        assert not (root / "var/lib/etcd-restore/data").exists()

    @pytest.mark.parametrize(("own", "unit"), [(UNITS, "etcd.service"), (PODS, "kubelet.service")])
    def test_a_member_is_masked_until_it_is_started(self, root: Path, own: ControlPlane, unit: str) -> None:
        own = replace(own, stop_etcd="echo stopped\n", start_etcd="echo started\n")
        assert self.run(root, restore.stop_and_mask(own)) == "stopped\n"
        mask = root / "etc/systemd/system.control" / unit
        assert mask.readlink() == Path("/dev/null")
        shown = subprocess.run(
            ["systemctl", f"--root={root}", "is-enabled", unit], capture_output=True, text=True, check=False
        )
        assert shown.stdout == "masked\n"
        assert self.run(root, restore.unmask_and_start(own)) == "started\n"
        assert not mask.parent.exists()
        # systemd is told of either.
        assert (root / "systemctl.log").read_text() == "daemon-reload\n" * 2

    def test_a_database_that_is_still_open_stops_the_restore(self, root: Path) -> None:
        """A query of the processes that fails is no answer: what etcd has open tells whether it has ended."""
        self.data(root, "live")
        with (root / "var/lib/etcd/member/snap/db").open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            said = self.run(root, restore.stop_and_mask(replace(UNITS, stop_etcd="")), fails=True)
        assert "etcd has not ended" in said

    def test_the_highest_revision_of_all_data_that_lie_there_is_told(self, root: Path) -> None:
        assert "revision=0\n" in self.run(root, restore.REVISIONS)
        self.data(root, "5000000007")
        self.prepared(root)
        self.run(root, restore.swap("/var/lib/etcd-restore/before-20261128T000000Z", UNITS))
        self.data(root, "12")
        assert "revision=5000000007\n" in self.run(root, restore.REVISIONS)
        with (root / "var/lib/etcd-restore/before-20261128T000000Z/member/snap/db").open("r+") as held:
            # A member that runs tells its revision by itself.
            fcntl.flock(held, fcntl.LOCK_EX)
            assert "revision=12\n" in self.run(root, restore.REVISIONS)


@pytest.mark.parametrize("broken", ["tasks", "containers"])
def test_a_pod_counts_as_ended_only_where_containerd_says_so(tmp_path: Path, broken: str) -> None:
    """The list that could not be had was read as one without etcd in it."""
    ctr = tmp_path / "ctr"
    ctr.write_text(f'#!/bin/sh\n[ "$3" != {broken} ] || exit 1\n')
    ctr.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True, timeout=30, check=False)
    done = run(["bash", "-c", PODS.stop_etcd])
    assert done.returncode == 1
    assert "containerd does not tell whether etcd runs" in done.stderr
    ctr.write_text("#!/bin/sh\n")
    assert run(["bash", "-c", PODS.stop_etcd]).returncode == 0


def test_a_pod_is_killed_until_containerd_lists_none(tmp_path: Path) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    ctr = tmp_path / "ctr"
    ctr.write_text(
        '#!/bin/sh\nif [ "$3" = containers ]; then echo abc; exit; fi\n'
        "echo 'TASK PID STATUS'; echo 'other 1 RUNNING'\n"
        f"! kill -0 {victim.pid} 2>/dev/null || echo 'abc {victim.pid} RUNNING'\n"
    )
    ctr.chmod(0o755)
    try:
        waiting = threading.Thread(target=victim.wait)
        waiting.start()
        done = subprocess.run(
            ["bash", "-c", PODS.stop_etcd],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        waiting.join(timeout=10)
        assert victim.returncode == -9
    finally:
        victim.kill()


def scripts() -> Iterator[tuple[str, str]]:
    """Name -> what runs on machines, either way."""
    for way, own in (("units", UNITS), ("pods", PODS)):
        for part in fields(own):
            if part.name not in ("owner", "etcd_unit"):
                yield f"{way}: {part.name}", getattr(own, part.name)
        yield f"{way}: swap", restore.swap("/x", own)
        yield f"{way}: stop and mask", restore.stop_and_mask(own)
        yield f"{way}: unmask and start", restore.unmask_and_start(own)
    yield "keep the last", restore.KEEP_THE_LAST
    yield "revisions", restore.REVISIONS
    for name in ("etcd", "kubelet"):
        for made in (Unit(name), Pod(name)):
            for verb in ("pid", "stop", "start", "run_without", "is_changed", "log"):
                yield f"{type(made).__name__} {name}: {verb}", getattr(made, verb)()
            yield f"{type(made).__name__} {name}: run_with", made.run_with("A=$((1 + 1))")


@pytest.mark.parametrize("script", [script for _, script in scripts()], ids=[name for name, _ in scripts()])
def test_what_runs_on_machines_is_sound_bash(script: str) -> None:
    subprocess.run(["bash", "-n", "-c", script], check=True)
