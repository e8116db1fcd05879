"""The hourly snapshots of the members: what is registered, and what the script does in a directory of a test's own."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from components import etcd_snapshots
from components.etcd_snapshots import IDENTITY_KEY
from unit.mocked_engine import Run

SCRIPT = Path(etcd_snapshots.__file__).with_name("etcd_snapshot.sh")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A directory with stand-ins for etcd's programs, and the one that the snapshots go to."""
    programs = {
        "etcdctl": 'echo "$ETCDCTL_ENDPOINTS" >"$3"',
        "etcdutl": 'echo \'{"hash":1,"revision":42,"totalKey":3}\'',
    }
    (tmp_path / "bin").mkdir()
    for name, script in programs.items():
        program(tmp_path, name, script)
    (tmp_path / "etcdctl.env").write_text("export ETCDCTL_ENDPOINTS=https://10.0.0.1:2379,https://10.0.0.2:2379\n")
    (tmp_path / "snapshots").mkdir()
    return tmp_path


def program(machine: Path, name: str, script: str) -> None:
    file = machine / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def take(machine: Path) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.read_text().replace("/etc/etcd/etcdctl.env", f"{machine}/etcdctl.env")
    return subprocess.run(
        ["bash", "-c", script, "etcd-snapshot", str(machine / "snapshots")],
        env={"PATH": f"{machine}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def kept(machine: Path) -> list[str]:
    return sorted(each.name for each in (machine / "snapshots").iterdir())


def test_a_snapshot_is_taken_of_this_member_for_root_alone(machine: Path) -> None:
    assert take(machine).returncode == 0
    (name,) = kept(machine)
    assert name.startswith("etcd-2")
    assert name.endswith("Z-r42.db")
    file = machine / "snapshots" / name
    assert file.read_text() == "https://127.0.0.1:2379\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_last_24_are_kept_and_nothing_of_anybody_elses_goes(machine: Path) -> None:
    for number in range(30):
        (machine / "snapshots" / f"etcd-20260101T0000{number:02}Z-r{number}.db").touch()
    (machine / "snapshots" / "mine.db").touch()
    assert take(machine).returncode == 0
    names = kept(machine)
    assert "mine.db" in names
    snapshots = [name for name in names if name != "mine.db"]
    assert len(snapshots) == 24
    assert snapshots[0] == "etcd-20260101T000007Z-r7.db"
    assert snapshots[-1].endswith("-r42.db")


@pytest.mark.parametrize(
    ("broken", "script"),
    [
        ("etcdctl", 'echo half >"$3.part"; echo "no space left" >&2; exit 1'),
        ("etcdutl", "echo 'snapshot file integrity check failed' >&2; exit 1"),
        ("etcdutl", "echo '{}'"),
    ],
)
def test_one_that_fails_is_removed_and_says_so(machine: Path, broken: str, script: str) -> None:
    program(machine, broken, script)
    (machine / "snapshots" / "etcd-20260101T000000Z-r1.db").touch()
    done = take(machine)
    assert done.returncode != 0
    assert done.stderr
    assert kept(machine) == ["etcd-20260101T000000Z-r1.db"]


def test_every_member_has_the_timer_and_marks_the_data_as_the_labs(ha: Run) -> None:
    for number in range(3):
        step = f"etcd-snapshots-controller-{number}"
        assert ha.files(step)["/usr/local/lib/hardway/etcd-snapshot"] == "0700"
        script = ha.script(step)
        assert "install -d -m 0700 /var/lib/etcd-snapshots" in script
        assert f'etcdctl put {IDENTITY_KEY} "$lab"' in script
        # The timer runs; what it starts is started by it alone.
        assert "\nunit etcd-snapshot.timer " in script
        assert "\nunit etcd-snapshot.service" not in script
        timer = ha.file(step, "/etc/systemd/system/etcd-snapshot.timer")
        assert "\nOnCalendar=hourly\n" in timer
        assert "\nRandomizedDelaySec=15min\n" in timer


def test_nothing_that_people_wait_for_waits_for_the_timers(ha: Run) -> None:
    for name in ("control-plane-controller-0", "worker-0-node", "readiness-cluster"):
        assert not [each for each in ha.before(ha.named(name)) if each.startswith("etcd-snapshots")]
