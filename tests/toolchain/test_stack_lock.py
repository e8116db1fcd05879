"""Pulumi's own lock, held by a command of this project: by its file, and by the real CLI."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from toy_stack import STACK

from toolchain import paths, recovery, stack_lock
from toolchain.errors import ToolchainError
from toolchain.holder import KEY, Holder

HOLDS = """
import sys
from dataclasses import fields
from pathlib import Path
from toolchain import stack_lock
from toolchain.stack import Stack
stack = Stack(
    name="dev", project="toy", settings_file=Path("x"), substrate="containers", engine="podman", kubernetes="1"
)
with stack_lock.held(Path(sys.argv[1]), stack, "./hardway restore"):
    print("held", flush=True)
    sys.stdin.read()
"""


def files(directory: Path) -> list[Path]:
    """The lock files of the stack; Pulumi takes whatever is there for one."""
    place = recovery.lock_directory(directory, STACK)
    return sorted(place.iterdir()) if place.exists() else []


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path],
        cwd=paths.checkout(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def changed(directory: Path, **others: object) -> None:
    """Make the lock say something else of its holder."""
    (file,) = files(directory)
    content = json.loads(file.read_text())
    for name, value in others.items():
        (content if name in content else content[KEY])[name] = value
    file.write_text(json.dumps(content))


def test_the_lock_has_pulumis_form_and_goes_with_the_block(tmp_path: Path) -> None:
    with stack_lock.held(tmp_path, STACK, "./hardway restore"):
        (file,) = files(tmp_path)
        assert file.parent == tmp_path / ".pulumi" / "locks" / "organization" / "toy" / "dev"
        said = json.loads(file.read_text())
        assert said["pid"] == os.getpid()
        assert said["hostname"] == socket.gethostname()
        assert said["username"]
        # RFC 3339, which Go reads, with a zone.
        assert said["timestamp"].endswith("+00:00")
    assert files(tmp_path) == []


def test_the_lock_goes_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), stack_lock.held(tmp_path, STACK, "./hardway restore"):
        raise KeyboardInterrupt
    assert files(tmp_path) == []


def test_a_second_command_is_refused_with_the_holders_name(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    before = files(tmp_path)
    said = rf"Another ./hardway restore is at work on the stack dev: process {holder.pid} on .*Nothing was changed"
    with pytest.raises(ToolchainError, match=said), stack_lock.held(tmp_path, STACK, "./hardway drill"):
        pytest.fail("two hold it")
    assert files(tmp_path) == before


def test_the_lock_of_a_killed_command_is_removed_by_the_next(
    tmp_path: Path, holder: subprocess.Popen[str], capfd: pytest.CaptureFixture[str]
) -> None:
    holder.send_signal(signal.SIGKILL)
    # Also while its parent has not read its exit status.
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert len(files(tmp_path)) == 1
    with stack_lock.held(tmp_path, STACK, "./hardway drill"):
        assert len(files(tmp_path)) == 1
    assert f"killed (./hardway restore, process {holder.pid}, since" in capfd.readouterr().out
    assert files(tmp_path) == []


def test_a_stopped_command_still_holds_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(ToolchainError, match=f"process {holder.pid}"):
        recovery.clear_stale_locks(tmp_path, STACK)
    assert len(files(tmp_path)) == 1


def test_a_pid_that_a_later_process_has_is_stale(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    changed(tmp_path, started=1)
    assert [lock.pid for lock in recovery.clear_stale_locks(tmp_path, STACK)] == [holder.pid]


@pytest.mark.parametrize(
    ("others", "stale"),
    [
        ({"hostname": "elsewhere"}, False),
        # Another machine of the same name.
        ({"boot": "another", "machine": "another"}, False),
        # A machine without an id of its own: whether it was booted again cannot be known.
        ({"boot": "another", "machine": ""}, False),
        # In a container of the same host name the pid means another process.
        ({"namespace": "pid:[1]"}, False),
        # The same machine was booted again.
        ({"boot": "another", "machine": "this one"}, True),
        ({}, True),
    ],
)
def test_of_a_process_elsewhere_nothing_is_certain(
    tmp_path: Path,
    holder: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    others: dict[str, str],
    stale: bool,
) -> None:
    monkeypatch.setattr("toolchain.holder._machine", lambda: "this one")
    holder.kill()
    holder.wait()
    changed(tmp_path, **others)
    if stale:
        recovery.clear_stale_locks(tmp_path, STACK)
    else:
        with pytest.raises(ToolchainError, match="pulumi cancel --stack dev"):
            recovery.clear_stale_locks(tmp_path, STACK)
    assert bool(files(tmp_path)) is not stale


@pytest.mark.parametrize(
    "content", ["", "[]", "\0\0\0", "{}", '{"pid": "x", "hostname": "%s"}', '{"pid": 0, "hostname": "%s"}']
)
def test_a_damaged_lock_may_be_alive(tmp_path: Path, content: str) -> None:
    place = recovery.lock_directory(tmp_path, STACK)
    place.mkdir(parents=True)
    (place / "some.json").write_text(content.replace("%s", socket.gethostname()))
    with pytest.raises(ToolchainError, match="pulumi cancel"):
        recovery.clear_stale_locks(tmp_path, STACK)
    assert files(tmp_path)


@pytest.mark.parametrize("own", [True, False], ids=["of a command", "of pulumi"])
def test_a_living_process_of_another_user_that_proc_hides_is_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    # As with /proc mounted with hidepid=2: no directory for it, and a signal to it is not permitted.
    with subprocess.Popen(["sleep", "60"]) as process:
        lock = recovery.Lock(
            file=tmp_path / "x.json",
            pid=process.pid,
            user="other",
            host=socket.gethostname(),
            since="2026",
            holder=replace(Holder.this_process("./hardway restore"), pid=process.pid) if own else None,
        )
        try:
            assert lock.is_stale, "visible, it is another process"

            def kill(pid: int, number: int) -> None:
                raise PermissionError

            monkeypatch.setattr("toolchain.processes.read", lambda _: None)
            monkeypatch.setattr("toolchain.holder.os.kill", kill)
            assert not lock.is_stale
        finally:
            monkeypatch.undo()
            process.kill()


def test_two_that_write_at_once_both_go_back(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other's lock appears after the first look.
    monkeypatch.setattr(stack_lock, "clear_stale_locks", lambda *_: [])
    before = files(tmp_path)
    with (
        pytest.raises(ToolchainError, match=f"process {holder.pid}"),
        stack_lock.held(tmp_path, STACK, "./hardway drill"),
    ):
        pytest.fail("two hold it")
    assert files(tmp_path) == before
