"""The hourly snapshots of the members: what is registered, and what the script does in a directory of a test's own."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from components import etcd_snapshots
from config.machine_paths import IDENTITY_KEY
from unit.mocked_engine import Run

SCRIPT = Path(etcd_snapshots.__file__).with_name("etcd_snapshot.sh")


# A page that begins as bbolt's, and room for its checksum.
SNAPSHOT = (bytes(16) + 0xED0CDAED.to_bytes(4, "little")).ljust(4096, b"\0") + bytes(32)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A directory with stand-ins for etcd's programs and a disk, and the one that the snapshots go to."""
    programs = {
        "etcdctl": """case "$1 $2" in
  "endpoint status") echo '[{"Status":{"dbSize":1048576}}]' ;;
  *) cp "${0%/*}/../snapshot" "$3"; echo "$ETCDCTL_ENDPOINTS" >"${0%/*}/../asked" ;;
esac""",
        "sleep": ":",
        "etcdutl": 'echo \'{"hash":1,"revision":42,"totalKey":3}\'',
        # Each snapshot that is removed gives 100 MiB.
        "df": 'echo Avail; echo $(($(cat "${0%/*}/../free") - 104857600 * $(ls | wc -l)))',
    }
    (tmp_path / "bin").mkdir()
    for name, script in programs.items():
        program(tmp_path, name, script)
    (tmp_path / "etcdctl.env").write_text("export ETCDCTL_ENDPOINTS=https://10.0.0.1:2379,https://10.0.0.2:2379\n")
    (tmp_path / "snapshot").write_bytes(SNAPSHOT)
    (tmp_path / "free").write_text(str(100 << 30))
    (tmp_path / "snapshots").mkdir()
    return tmp_path


def program(machine: Path, name: str, script: str) -> None:
    file = machine / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def take(machine: Path, wait: int = 0) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.read_text().replace("/etc/etcd/etcdctl.env", f"{machine}/etcdctl.env")
    return subprocess.run(
        ["bash", "-c", script, "etcd-snapshot", str(machine / "snapshots"), str(wait)],
        env={"PATH": f"{machine}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def kept(machine: Path) -> list[str]:
    return sorted(each.name for each in (machine / "snapshots").iterdir() if each.name != ".taken")


def earlier(machine: Path, number: int, *, content: bytes = SNAPSHOT) -> str:
    """A snapshot of so many seconds after a certain time; its name."""
    name = f"etcd-20260101T0000{number:02}Z-r{number}.db"
    (machine / "snapshots" / name).write_bytes(content)
    return name


def test_a_snapshot_is_taken_of_this_member_for_root_alone(machine: Path) -> None:
    assert take(machine).returncode == 0
    (name,) = kept(machine)
    assert name.startswith("etcd-2")
    assert name.endswith("Z-r42.db")
    file = machine / "snapshots" / name
    assert file.read_bytes() == SNAPSHOT
    assert (machine / "asked").read_text() == "https://127.0.0.1:2379\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("listed", [True, False], ids=["taken by this version", "by an earlier one"])
def test_the_last_24_are_kept_and_nothing_of_anybody_elses_goes(machine: Path, listed: bool) -> None:
    names = [earlier(machine, number) for number in range(30)]
    if listed:
        (machine / "snapshots/.taken").write_text("\n".join(names) + "\n")
    (machine / "snapshots/mine.db").touch()
    assert take(machine).returncode == 0
    assert "mine.db" in kept(machine)
    snapshots = [name for name in kept(machine) if name != "mine.db"]
    assert len(snapshots) == 24
    assert snapshots[:-1] == names[7:]
    assert snapshots[-1].endswith("-r42.db")


def test_files_that_only_have_such_names_neither_go_nor_count(machine: Path) -> None:
    """30 of them removed all snapshots but those, since they came first by name."""
    copies = [f"etcd-20250101T0000{number:02}Z-r{number}.db" for number in range(30)]
    for name in copies:
        (machine / "snapshots" / name).write_bytes(b"something else")
    (machine / "snapshots/etcd-before-my-change.db").write_bytes(SNAPSHOT)
    names = [earlier(machine, number) for number in range(3)]
    assert take(machine).returncode == 0
    snapshots = [name for name in kept(machine) if name not in copies]
    assert len(kept(machine)) == 30 + 1 + 3 + 1
    assert set(names) < set(snapshots)
    # A copy that somebody puts there later is theirs, however it is named.
    (machine / "snapshots/etcd-20240101T000000Z-r1.db").write_bytes(SNAPSHOT)
    for number in range(3, 40):
        name = earlier(machine, number)
        with (machine / "snapshots/.taken").open("a") as list_:
            list_.write(f"{name}\n")
    assert take(machine).returncode == 0
    assert (machine / "snapshots/etcd-20240101T000000Z-r1.db").exists()
    assert (machine / "snapshots/etcd-before-my-change.db").exists()


def test_a_clock_that_was_ahead_does_not_make_the_newest_the_one_that_goes(machine: Path) -> None:
    future = [f"etcd-20990101T0000{number:02}Z-r{number}.db" for number in range(24)]
    for name in future:
        (machine / "snapshots" / name).write_bytes(SNAPSHOT)
    (machine / "snapshots/.taken").write_text("\n".join(future) + "\n")
    assert take(machine).returncode == 0
    assert any(name.endswith("-r42.db") for name in kept(machine))
    assert future[0] not in kept(machine)


def test_old_ones_make_room_on_a_disk_that_is_nearly_full(machine: Path) -> None:
    names = [earlier(machine, number) for number in range(10)]
    # Twice the database's 1 MiB, and 512 MiB: met with five files left.
    (machine / "free").write_text(str((514 << 20) + 5 * (100 << 20)))
    done = take(machine)
    assert done.returncode == 0, done.stderr
    assert kept(machine)[:-1] == names[5:]


def test_on_a_full_disk_none_is_taken_and_three_stay(machine: Path) -> None:
    """A snapshot that fills the disk stops etcd, whose disk it is."""
    names = [earlier(machine, number) for number in range(10)]
    (machine / "free").write_text(str(514 << 20))
    done = take(machine)
    assert done.returncode != 0
    assert kept(machine) == names[7:]
    # In one line: status shows the last.
    (said,) = done.stderr.splitlines()
    assert "no snapshot taken: 214 MiB are free" in said
    assert "514 MiB are needed" in said


@pytest.mark.parametrize(
    ("broken", "script"),
    [
        (
            "etcdctl",
            '[ "$1" = snapshot ] || { echo \'{"dbSize":1}\'; exit; }; echo half >$3.part; echo full >&2; exit 1',
        ),
        ("etcdctl", "echo 'context deadline exceeded' >&2; exit 1"),
        ("etcdctl", "echo '[]'"),
        ("etcdutl", "echo 'snapshot file integrity check failed' >&2; exit 1"),
        ("etcdutl", "echo '{}'"),
    ],
)
def test_one_that_fails_is_removed_and_says_so(machine: Path, broken: str, script: str) -> None:
    program(machine, broken, script)
    name = earlier(machine, 1)
    done = take(machine)
    assert done.returncode != 0
    assert done.stderr
    assert kept(machine) == [name]


@pytest.mark.parametrize("command", ["endpoint", "snapshot"])
def test_a_member_that_is_starting_is_waited_for(machine: Path, command: str) -> None:
    """One that a reboot or a restore had stopped at the full hour: the lab was not healthy for an hour."""
    answers = (machine / "bin/etcdctl").read_text().removeprefix("#!/bin/sh\n")
    # Two tries find it stopped; like etcdctl, `endpoint status` then prints an answer without members, too.
    fails = f'[ $1 != {command} ] || [ $(wc -l <"$0.tries") -ge 2 ] || '
    fails += '{ echo "$1" >>"$0.tries"; echo "[]"; echo "context deadline exceeded" >&2; exit 1; }'
    program(machine, "etcdctl", f'touch "$0.tries"\n{fails}\n{answers}')
    done = take(machine, wait=60)
    assert (done.returncode, done.stderr) == (0, "")
    (name,) = kept(machine)
    assert name.endswith("-r42.db")


def test_what_a_run_that_was_killed_left_goes(machine: Path) -> None:
    (machine / "snapshots/draft.part").touch()
    assert take(machine).returncode == 0
    (name,) = kept(machine)
    assert name.endswith("-r42.db")


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
        # One that hangs ends, and its failure shows.
        service = ha.file(step, "/etc/systemd/system/etcd-snapshot.service")
        assert "\nTimeoutStartSec=600\n" in service
        assert "/etcd-snapshot /var/lib/etcd-snapshots 300" in service
        timer = ha.file(step, "/etc/systemd/system/etcd-snapshot.timer")
        assert "\nOnCalendar=hourly\n" in timer
        assert "\nRandomizedDelaySec=15min\n" in timer


def test_nothing_that_people_wait_for_waits_for_the_timers(ha: Run) -> None:
    for name in ("control-plane-controller-0", "worker-0-node", "readiness-cluster"):
        assert not [each for each in ha.before(ha.named(name)) if each.startswith("etcd-snapshots")]
