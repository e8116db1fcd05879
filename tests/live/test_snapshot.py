"""Snapshots as files, and how one is taken."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from small_lab import cluster, dead, member_state, ok, saying, well

from live import snapshot
from live.cluster import Cluster
from live.probe import Probe
from live.snapshot_file import is_of, problems_of, sha256, sidecar_of
from live.status.etcd import members
from toolchain import access
from toolchain.errors import ToolchainError

IDENTITY = "ab" * 32
SAYS = {"hash": 0xBEEF, "revision": 77, "totalKey": 12, "totalSize": 4096, "version": "3.6.0"}


def database(identity: str = IDENTITY) -> bytes:
    """What etcd writes: whole pages that begin as bbolt's, and their SHA-256."""
    pages = bytearray(8 * 4096)
    pages[16:20] = 0xED0CDAED.to_bytes(4, "little")
    pages[9000 : 9000 + len(identity)] = identity.encode()
    return bytes(pages) + hashlib.sha256(pages).digest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "some.db"
    made.write_bytes(database())
    return made


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A lab whose machines are healthy, and whose files lie in a directory of the test's own."""
    lab = cluster(tmp_path)
    monkeypatch.setattr("toolchain.paths.checkout", lambda: tmp_path)
    lab.stack.directory.mkdir(parents=True)
    monkeypatch.setattr(snapshot, "probe_all", well)
    monkeypatch.setattr(
        Cluster,
        "kubectl",
        lambda *_, **__: subprocess.CompletedProcess([], 0, '{"serverVersion": {"gitVersion": "v1.36.4"}}', ""),
    )
    return lab


Sends = Callable[..., None]


@pytest.fixture
def member_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sends:
    """Have ssh print what a member would: the content, its sha256, and ssh's exit status."""

    def sends(content: bytes, *, sum_: str | None = None, status: int = 0) -> None:
        answer = tmp_path / "answer"
        answer.write_bytes(_head(sum_ or hashlib.sha256(content).hexdigest(), len(content)) + content)
        program = 'cat "$0"; echo no space >&2; exit "$1"'
        monkeypatch.setattr(access, "ssh_command", lambda _: ["bash", "-c", program, str(answer), str(status)])

    return sends


def _head(sum_: str, size: int) -> bytes:
    head = {"identity": IDENTITY, "state": SAYS, "sha256": sum_, "etcd": "3.6.14", "bytes": size}
    return json.dumps(head).encode() + b"\n"


class TestFile:
    def test_what_etcd_wrote_is_fine_with_and_without_a_sidecar(self, file: Path) -> None:
        assert list(problems_of(file)) == []
        sidecar_of(file).write_text(json.dumps({"sha256": sha256(file)}))
        assert list(problems_of(file)) == []

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        assert list(problems_of(tmp_path / "none.db")) == [f"{tmp_path}/none.db does not exist"]
        assert list(problems_of(tmp_path)) == [f"{tmp_path} is no file"]

    @pytest.mark.parametrize("content", [b"", b"hello", b"x" * 10000])
    def test_one_that_is_something_else(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        assert list(problems_of(file)) == [f"{file} is no etcd snapshot: it does not have the header of a snapshot"]

    @pytest.mark.parametrize("cut", [1, 32, 4096, 12345])
    def test_a_cut_one(self, file: Path, cut: int) -> None:
        file.write_bytes(database()[:-cut])
        (problem,) = problems_of(file)
        assert "is not whole" in problem or "does not match the checksum at its end" in problem

    @pytest.mark.parametrize("place", [5000, 9001, 8 * 4096 + 3])
    def test_a_changed_one(self, file: Path, place: int) -> None:
        content = bytearray(database())
        content[place] ^= 1
        file.write_bytes(content)
        assert list(problems_of(file)) == [
            f"{file} is not what etcd wrote: its content does not match the checksum at its end"
        ]

    def test_one_with_the_sidecar_of_another(self, file: Path) -> None:
        sidecar_of(file).write_text(json.dumps({"sha256": "0" * 64}))
        (problem,) = problems_of(file)
        assert "its sha256 is another" in problem

    @pytest.mark.parametrize("text", ["", "[]", "{}", "3", "\x00"])
    def test_a_sidecar_that_is_none(self, file: Path, text: str) -> None:
        sidecar_of(file).write_text(text)
        (problem,) = problems_of(file)
        assert "is no sidecar of a snapshot" in problem

    def test_whose_it_is_stands_in_it_or_beside_it(self, file: Path) -> None:
        assert is_of(file, IDENTITY)
        assert not is_of(file, "cd" * 32)
        sidecar_of(file).write_text(json.dumps({"sha256": sha256(file), "lab": "cd" * 32}))
        assert is_of(file, "cd" * 32)


class TestMember:
    def chosen(self, probes: Sequence[Probe], lab: Cluster) -> tuple[str, str]:
        return snapshot.best(members(lab, probes))

    def test_the_leader_is_asked(self, lab: Cluster) -> None:
        assert self.chosen(well(lab), lab) == ("controller-1", "the leader")

    def test_without_a_leader_that_answers_the_highest_revision_counts(self, lab: Cluster) -> None:
        member, why = self.chosen(dead(well(lab), "controller-1"), lab)
        assert (member, why) == ("controller-2", "a healthy member with the highest revision")

    def test_without_a_healthy_one_it_says_so(self, lab: Cluster) -> None:
        probes = dead(well(lab), "controller-1", "controller-2")
        probes = saying(probes, "controller-0", "health", ok('{"health":"false","reason":"RAFT NO LEADER"}'))
        probes = saying(probes, "controller-0", "etcd", ok(member_state("controller-0", leader="nobody")))
        member, why = self.chosen(probes, lab)
        assert member == "controller-0"
        assert "none is healthy" in why

    def test_without_any_it_is_an_error_that_names_them(self, lab: Cluster) -> None:
        probes = dead(well(lab), "controller-0", "controller-1", "controller-2")
        with pytest.raises(ToolchainError, match=r"No etcd member answers.*\n.*controller-0: No route to host"):
            self.chosen(probes, lab)


class TestTake:
    def test_the_file_is_whole_for_the_users_eyes_and_has_a_sidecar(
        self, lab: Cluster, member_sends: Sends, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = database()
        member_sends(content)
        file = snapshot.take(lab, None)
        assert file.parent == lab.stack.directory / "snapshots"
        assert file.name.startswith("paper-20")
        assert file.name.endswith("Z-r77.db")
        assert file.read_bytes() == content
        beside = sidecar_of(file)
        assert [stat.S_IMODE(each.stat().st_mode) for each in (file, beside, file.parent)] == [0o600, 0o600, 0o700]
        said = json.loads(beside.read_text())
        assert said.pop("time").endswith("Z")
        assert said == {
            "sha256": hashlib.sha256(content).hexdigest(),
            "etcd_hash": "0000beef",
            "revision": 77,
            "keys": 12,
            "size": len(content),
            "member": "controller-1",
            "etcd": "3.6.14",
            "kubernetes": "v1.36.4",
            "lab": IDENTITY,
            "stack": "paper",
        }
        printed = capsys.readouterr().out
        assert "taken from  controller-1, the leader" in printed
        assert f"./hardway restore -s paper {file}" in printed
        assert list(problems_of(file)) == []

    @pytest.mark.parametrize("what", ["cut", "other", "failed"])
    def test_what_did_not_come_whole_leaves_no_file(
        self, lab: Cluster, tmp_path: Path, member_sends: Sends, what: str
    ) -> None:
        content = database()
        match what:
            case "cut":
                member_sends(content[:-4096])
            case "other":
                member_sends(content, sum_="0" * 64)
            case "failed":
                member_sends(content, status=1)
        target = tmp_path / "kept"
        target.mkdir()
        with pytest.raises(ToolchainError, match="controller-1"):
            snapshot.take(lab, target / "mine.db")
        assert list(target.iterdir()) == []

    def test_a_disk_that_would_be_nearly_full_is_left_alone(
        self, lab: Cluster, tmp_path: Path, member_sends: Sends, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        member_sends(database())
        usage = shutil.disk_usage(tmp_path)._replace(free=400 << 20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(ToolchainError, match=r"400 MiB of disk free, and 512 MiB are needed"):
            snapshot.take(lab, tmp_path / "mine.db")
        assert not (tmp_path / "mine.db").exists()
        assert not list(tmp_path.glob(".snapshot.*"))

    def test_a_member_that_hangs_is_not_waited_for_for_ever(
        self, lab: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """etcd, or the whole machine, is frozen: its kernel answers ssh's keepalives for a while, or always."""
        monkeypatch.setattr(access, "ssh_command", lambda _: ["bash", "-c", "exec sleep 60"])
        monkeypatch.setattr(Cluster, "allowed", lambda _, seconds: 0.2)
        began = time.monotonic()
        with pytest.raises(ToolchainError, match=r"controller-1 did not give a snapshot within"):
            snapshot.take(lab, tmp_path / "mine.db")
        assert time.monotonic() - began < 30
        assert not list(tmp_path.glob(".snapshot.*"))

    def test_a_file_that_is_there_stays_as_it_is(self, lab: Cluster, file: Path) -> None:
        before = file.read_bytes()
        with pytest.raises(ToolchainError, match=r"exists already\. Nothing was changed"):
            snapshot.take(lab, file)
        assert file.read_bytes() == before
        with pytest.raises(ToolchainError, match=r"is no directory\. Nothing was changed"):
            snapshot.take(lab, file.parent / "none" / "x.db")


@pytest.fixture
def member(tmp_path: Path) -> Path:
    """A machine with etcd's programs, as far as a snapshot needs them, and 1 GiB of disk free."""
    programs = {
        "etcdctl": """case "$*" in
  *"endpoint status"*) echo '[{"Status":{"dbSize":1048576}}]' ;;
  *"snapshot save"*) for last; do :; done; echo data >"$last" ;;
  version) echo 'etcdctl version: 3.6.14' ;;
esac""",
        "etcdutl": "echo '{\"revision\":7}'",
        "openssl": "echo certificate",
        "df": 'echo Avail; cat "$FREE"',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "etcdctl.env").write_text("export ETCDCTL_CACERT=ca\n")
    (tmp_path / "free").write_text(f"{1 << 30}\n")
    (tmp_path / "scratch").mkdir()
    return tmp_path


def taken(member: Path) -> subprocess.CompletedProcess[str]:
    """Run what `./hardway snapshot` runs on a member."""
    script = snapshot._TAKE.replace("/etc/etcd/etcdctl.env", f"{member}/etcdctl.env")
    return subprocess.run(
        ["bash", "-c", script.replace("/var/tmp", f"{member}/scratch")],
        env={"PATH": f"{member}/bin:{os.environ['PATH']}", "FREE": f"{member}/free"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_member_says_first_what_it_sends(member: Path) -> None:
    done = taken(member)
    assert done.returncode == 0, done.stderr
    head, content = done.stdout.split("\n", 1)
    assert content == "data\n"
    assert json.loads(head)["bytes"] == len(content)
    assert not list((member / "scratch").iterdir())


def test_a_member_whose_disk_would_be_nearly_full_takes_none(member: Path) -> None:
    """Of a full disk etcd itself stops."""
    (member / "free").write_text(f"{(512 << 20) + 2 * (1 << 20) - 1}\n")
    done = taken(member)
    assert (done.returncode, done.stdout) == (1, "")
    assert "513 MiB are free in" in done.stderr
    assert not list((member / "scratch").iterdir())


def test_what_runs_on_the_member_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", "-c", snapshot._TAKE], check=True)
