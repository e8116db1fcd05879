import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_stack import STACK

from toolchain import recovery
from toolchain.errors import ToolchainError


def lock(backend: Path, pid: int, *, host: str | None = None, stack: str = "dev") -> Path:
    file = backend / ".pulumi" / "locks" / "organization" / "toy" / stack / f"{pid}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "pid": pid,
        "username": "root",
        "hostname": host or socket.gethostname(),
        "timestamp": "2026-11-21T07:10:00.123456789Z",
    }
    file.write_text(json.dumps(content))
    file.with_name(f"{file.name}.attrs").write_text("{}")
    return file


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def live_pulumi(tmp_path: Path) -> Iterator[int]:
    program = tmp_path / "pulumi"
    shutil.copy(shutil.which("sleep") or "", program)
    process = subprocess.Popen([program, "60"])
    yield process.pid
    process.kill()
    process.wait()


def test_no_locks(tmp_path: Path) -> None:
    assert recovery.clear_stale_locks(tmp_path, STACK) == []
    assert recovery.clear_stale_locks(None, STACK) == []


def test_the_lock_of_a_dead_process_is_removed(tmp_path: Path, dead_pid: int) -> None:
    stale, others = lock(tmp_path, dead_pid), lock(tmp_path, dead_pid, stack="ha")
    assert [removed.pid for removed in recovery.clear_stale_locks(tmp_path, STACK)] == [dead_pid]
    assert list(stale.parent.iterdir()) == []
    assert others.exists()


def test_a_pid_that_another_program_has_now_is_dead(tmp_path: Path) -> None:
    stale = lock(tmp_path, os.getpid())
    recovery.clear_stale_locks(tmp_path, STACK)
    assert not stale.exists()


def test_zombie_process_counts_as_dead(tmp_path: Path, live_pulumi: int) -> None:
    os.kill(live_pulumi, signal.SIGKILL)
    os.waitid(os.P_PID, live_pulumi, os.WEXITED | os.WNOWAIT)
    stale = lock(tmp_path, live_pulumi)
    recovery.clear_stale_locks(tmp_path, STACK)
    assert not stale.exists()


def test_lock_in_use_is_reported_and_no_lock_is_removed(tmp_path: Path, live_pulumi: int, dead_pid: int) -> None:
    alive, stale = lock(tmp_path, live_pulumi), lock(tmp_path, dead_pid)
    with pytest.raises(ToolchainError, match=rf"process {live_pulumi} on .*since 2026-11-21T07:10:00 UTC"):
        recovery.clear_stale_locks(tmp_path, STACK)
    assert alive.exists()
    assert stale.exists()


def test_a_lock_of_another_host_may_be_alive(tmp_path: Path, dead_pid: int) -> None:
    file = lock(tmp_path, dead_pid, host="elsewhere")
    with pytest.raises(ToolchainError, match="on elsewhere"):
        recovery.clear_stale_locks(tmp_path, STACK)
    assert file.exists()


def test_a_lock_that_cannot_be_read_may_be_alive(tmp_path: Path, dead_pid: int) -> None:
    file = lock(tmp_path, dead_pid)
    file.write_text("")
    with pytest.raises(ToolchainError, match="pulumi cancel"):
        recovery.clear_stale_locks(tmp_path, STACK)
    assert file.exists()


def test_what_was_half_written_beside_the_state_is_removed(tmp_path: Path) -> None:
    stacks = tmp_path / ".pulumi" / "stacks" / "toy"
    stacks.mkdir(parents=True)
    kept = {"dev.json": "{}", "dev.json.bak": "{}", "dev.json.bak.attrs": "{}", "other.json.attrs": ""}
    for name, text in {**kept, "dev.json.attrs": "", "dev.json.18ea01a2f6c93eba.tmp": '{"vers'}.items():
        (stacks / name).write_text(text)
    recovery.drop_torn_attributes(tmp_path, STACK)
    assert {file.name for file in stacks.iterdir()} == kept.keys()
    recovery.drop_torn_attributes(None, STACK)


STATE = b'{"version": 3, "checkpoint": {"latest": {"resources": []}}}'


def state_file(backend: Path, content: bytes) -> Path:
    file = backend / ".pulumi" / "stacks" / "toy" / "dev.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_nul_bytes_behind_a_state_are_removed(tmp_path: Path) -> None:
    """A power failure leaves them, and Pulumi says: invalid character '\\x00' after top-level value."""
    file = state_file(tmp_path, STATE + b"\n" + bytes(4096))
    file.chmod(0o640)
    assert recovery.repair_torn_state(tmp_path, STACK) == file
    assert file.read_bytes() == STATE + b"\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(file.parent.iterdir()) == [file]


def test_a_whole_state_is_left_as_it_is(tmp_path: Path) -> None:
    file = state_file(tmp_path, STATE)
    before = file.stat()
    assert recovery.repair_torn_state(tmp_path, STACK) is None
    assert recovery.repair_torn_state(tmp_path / "nothing", STACK) is None
    assert recovery.repair_torn_state(None, STACK) is None
    assert file.stat() == before


@pytest.mark.parametrize("torn", [b"", bytes(4096), STATE[:20] + bytes(4096), STATE[:20]])
def test_a_torn_state_names_the_last_whole_one(tmp_path: Path, torn: bytes) -> None:
    file = state_file(tmp_path, torn)
    backups = tmp_path / ".pulumi" / "backups" / "toy" / "dev"
    backups.mkdir(parents=True)
    with pytest.raises(ToolchainError, match="no whole copy of it"):
        recovery.repair_torn_state(tmp_path, STACK)
    for name in ("dev.1795861055469465608.json", "dev.1795861057376575153.json"):
        (backups / name).write_bytes(STATE)
    with pytest.raises(ToolchainError, match=r"The last state that is whole is \S+/dev\.1795861057376575153\.json"):
        recovery.repair_torn_state(tmp_path, STACK)
    file.with_name("dev.json.bak").write_bytes(STATE)
    with pytest.raises(ToolchainError) as error:
        recovery.repair_torn_state(tmp_path, STACK)
    assert file.read_bytes() == torn
    # What it says to run works.
    command = str(error.value).splitlines()[-1]
    subprocess.run(["sh", "-c", command], check=True)
    assert recovery.repair_torn_state(tmp_path, STACK) is None
    assert file.read_bytes() == STATE


def test_pending_operations_are_named() -> None:
    resource = {"urn": "urn:pulumi:dev::toy::command:local:Command::machine-1"}
    deployment = {"deployment": {"pending_operations": [{"type": "creating", "resource": resource}]}}
    assert recovery.pending_operations(deployment) == ["creating machine-1"]
    assert recovery.pending_operations({"deployment": {}}) == []
    assert recovery.pending_operations({}) == []


def test_the_state_is_read_where_its_files_are(tmp_path: Path) -> None:
    file = tmp_path / ".pulumi" / "stacks" / "toy" / "dev.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"version": 3, "checkpoint": {"latest": {"resources": [{"urn": "one"}]}}}))
    assert recovery.recorded(tmp_path, STACK) == {"resources": [{"urn": "one"}]}


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"checkpoint": null}', '{"checkpoint": {"latest": null}}'])
def test_where_the_files_do_not_tell_the_cli_is_asked(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / ".pulumi" / "stacks" / "toy" / "dev.json"
    file.parent.mkdir(parents=True)
    if content is not None:
        file.write_text(content)
    assert recovery.recorded(tmp_path, STACK) == {}
    assert recovery.recorded(None, STACK) == {}


@pytest.mark.parametrize(
    "file", ["toy/dev.json", "toy/dev.json.gz", "toy/dev.json.zst", "dev.json", "toy/dev.json.bak"], ids=str
)
def test_a_stack_is_absent_only_where_nothing_has_its_name(tmp_path: Path, file: str) -> None:
    """Compressed, and as early versions of Pulumi kept it; a copy may be of a stack that is there."""
    assert not recovery.is_absent(None, STACK)
    assert recovery.is_absent(tmp_path, STACK)
    place = tmp_path / ".pulumi" / "stacks" / file
    place.parent.mkdir(parents=True)
    (place.parent / f"another-{STACK.name}.json").touch()
    assert recovery.is_absent(tmp_path, STACK)
    place.write_text("")
    assert not recovery.is_absent(tmp_path, STACK)
