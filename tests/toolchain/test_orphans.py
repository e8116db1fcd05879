"""Which processes are ended as plugins of a killed engine: only those that certainly are."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolchain import orphans

Start = Callable[..., subprocess.Popen[str]]
_WAITS = "import signal; print('up', flush=True); signal.pause()"
_DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile 1: signal.pause()"
# Starts one more process, says its id, and waits.
_HAS_A_CHILD = (
    "import signal, subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True); "
    "signal.pause()"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process with a name of its choice, in the project's directory if not told otherwise."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, address: str, *, program: str = _WAITS, cwd: Path = tmp_path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [name, "-c", program, address], executable=sys.executable, cwd=cwd, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def dead_engine() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def live_engine() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("name", ["/opt/plugins/pulumi-resource-command", "pulumi-language-python"])
def test_a_plugin_of_a_dead_engine_is_ended(start: Start, tmp_path: Path, dead_engine: str, name: str) -> None:
    plugin = start(name, dead_engine)
    first_line(plugin)
    assert [ended.pid for ended in orphans.end_orphans(tmp_path)] == [plugin.pid]
    assert plugin.wait(timeout=10) == -signal.SIGTERM
    assert orphans.end_orphans(tmp_path) == []


def test_what_it_has_started_is_ended_with_it(start: Start, tmp_path: Path, dead_engine: str) -> None:
    plugin = start("pulumi-resource-command", dead_engine, program=_HAS_A_CHILD)
    child = int(first_line(plugin))
    orphans.end_orphans(tmp_path)
    # Until its new parent collects its status, it is still in the list.
    assert not (state := Path(f"/proc/{child}/stat")).exists() or " Z " in state.read_text()


def test_one_that_ignores_the_request_is_killed(
    start: Start, tmp_path: Path, dead_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_GRACE_SECONDS", 0.2)
    plugin = start("pulumi-resource-command", dead_engine, program=_DEAF)
    first_line(plugin)
    orphans.end_orphans(tmp_path)
    assert plugin.wait(timeout=10) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["pulumi", "python3", "my-pulumi-resource-command"])
def test_no_other_program_is_ended(start: Start, tmp_path: Path, dead_engine: str, name: str) -> None:
    process = start(name, dead_engine)
    first_line(process)
    assert orphans.end_orphans(tmp_path) == []
    assert process.poll() is None


def test_a_plugin_whose_engine_listens_is_not_ended(start: Start, tmp_path: Path, live_engine: str) -> None:
    plugin = start("pulumi-resource-command", live_engine)
    first_line(plugin)
    assert orphans.end_orphans(tmp_path) == []
    assert plugin.poll() is None


def test_a_plugin_without_an_engine_s_address_is_not_ended(start: Start, tmp_path: Path) -> None:
    plugin = start("pulumi-resource-command", "example.org:80")
    first_line(plugin)
    assert orphans.end_orphans(tmp_path) == []
    assert plugin.poll() is None


def test_another_project_s_plugin_is_not_ended(start: Start, tmp_path: Path, dead_engine: str) -> None:
    (tmp_path / "other").mkdir()
    plugin = start("pulumi-resource-command", dead_engine, cwd=tmp_path / "other")
    first_line(plugin)
    assert orphans.end_orphans(tmp_path) == []
    assert plugin.poll() is None


def test_a_child_of_an_engine_is_not_ended(start: Start, tmp_path: Path, dead_engine: str) -> None:
    """Also before the engine listens."""
    plugin = (
        "import subprocess, sys; child = subprocess.Popen(['pulumi-resource-command', '-c', "
        f"{_WAITS!r}, sys.argv[1]], executable={sys.executable!r}); print(child.pid, flush=True); child.wait()"
    )
    engine = start("pulumi", dead_engine, program=plugin)
    child = int(first_line(engine))
    try:
        first_line(engine)
        assert orphans.end_orphans(tmp_path) == []
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_commands_of_a_killed_run_are_ended_also_without_their_plugin(start: Start, tmp_path: Path) -> None:
    """`pkill -9 pulumi` leaves them: a container would be created while its lab is removed."""

    def command(name: str, identity: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [name, "-c", _WAITS],
            executable=sys.executable,
            env=os.environ | {"HARDWAY_IDENTITY": identity},
            stdout=subprocess.PIPE,
            text=True,
        )

    its, others = "SHA256:its", ("SHA256:its-not", "SHA256:other")
    ended = [command("/bin/bash", its), command("podman", its)]
    # What an engine starts for a container has the environment of the command, perhaps, and its own name.
    stay = [command("conmon", its), *(command("/bin/bash", other) for other in others), start("bash", "no-address")]
    try:
        for each in (*ended, *stay):
            first_line(each)
        orphans.end_commands(its)
        assert [each.wait(timeout=10) for each in ended] == [-signal.SIGTERM] * 2
        assert [each.poll() for each in stay] == [None] * 4
    finally:
        for each in (*ended, *stay):
            each.kill()
            each.wait()
