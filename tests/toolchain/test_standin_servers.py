"""Stand-in providers that run before the engine asks for them: with the real engine, on a project with one command."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_project import begin, set_create, wait_for, workshop

from toolchain import operations, stack
from toolchain.processes import every, read

CHECKOUT = Path(__file__).parents[2]
STANDINS = CHECKOUT / "toolchain" / "from_source" / "standins" / "bin"
PROGRAM = """
import pulumi, pulumi_command as command
command.local.Command("only", create=pulumi.Config("toy").require("create"))
"""
# A stand-in that notes with what words it was started.
NOTED = '#!/bin/sh\necho "{name} $*" >>{started}\nexec {standin} "$@"\n'
HOLDS = """
import os, sys
from pathlib import Path
from toolchain import paths, standin_servers
checkout = Path(sys.argv[1])
paths.checkout = lambda: checkout
with standin_servers.started(os.environ) as variables:
    print(variables["PULUMI_DEBUG_PROVIDERS"], flush=True)
    sys.stdin.read()
"""


class Project:
    """A checkout in which two stand-ins are in use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        links = directory / ".state" / "plugins"
        links.mkdir(parents=True)
        self.started = directory / "started"
        for name in ("pulumi-resource-command", "pulumi-resource-tls"):
            script = links / name
            script.write_text(NOTED.format(name=name, started=self.started, standin=STANDINS / name))
            script.chmod(0o755)
        self.workshop = workshop(PATH=f"{links}:{os.environ['PATH']}")

    def create(self, script: str) -> None:
        """Set the command's script."""
        set_create(self.directory, script)

    def starts(self) -> list[str]:
        """The stand-ins that were started since this was asked for, each with its words."""
        text = self.started.read_text()
        self.started.write_text("")
        return sorted(text.splitlines())

    def up(self) -> int:
        return operations.up(self.workshop, stack.read("dev"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    begin(tmp_path, PROGRAM, monkeypatch)
    return Project(tmp_path)


def at_work(directory: Path) -> set[int]:
    """The stand-ins that run in a directory."""
    found = set()
    for process in every():
        try:
            if "standins" in " ".join(process.command) and Path(f"/proc/{process.pid}/cwd").readlink() == directory:
                found.add(process.pid)
        except OSError:
            continue
    return found


def test_each_serves_a_run_on_a_chosen_port(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.create("echo said by the command")
    runs: tuple[Callable[[], int], ...] = (
        lambda: operations.preview(project.workshop, stack.read("dev")),
        project.up,
        project.up,
        lambda: operations.destroy(project.workshop, stack.read("dev")),
    )
    for run in runs:
        assert run() == 0
        names = [start.partition(" --port=")[0] for start in project.starts()]
        assert names == ["pulumi-resource-command", "pulumi-resource-tls"]
        assert at_work(project.directory) == set()
    assert "said by the command" in capfd.readouterr().out, "the provider tells the engine of what a command prints"


def test_a_failure_is_shown(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.create("echo why >&2; exit 7")
    assert project.up() != 0
    out, _ = capfd.readouterr()
    assert "why" in out
    assert "exit status 7" in out
    project.create("true")
    assert project.up() == 0


def test_plain_pulumi_starts_them_itself(project: Project) -> None:
    assert project.up() == 0
    project.starts()
    plain = subprocess.run(
        [project.workshop.pulumi, "preview", "--stack", "dev", "--non-interactive"],
        cwd=project.directory,
        env=os.environ | project.workshop.environment,
        capture_output=True,
        text=True,
    )
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert [start.partition(" 127.0.0.1:")[0] for start in project.starts()] == ["pulumi-resource-command"]


def test_without_stand_ins_nothing_is_started(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for link in (project.directory / ".state" / "plugins").iterdir():
        link.unlink()
    assert project.up() == 0
    assert not project.started.exists()


def test_a_command_ends_when_pulumi_is_killed(project: Project) -> None:
    mark = project.directory / "pid"
    project.create(f"echo $$ >{mark}.new && mv {mark}.new {mark}; exec sleep 240")

    def kill() -> None:
        wait_for(mark.exists, "the command is not begun")
        (pulumi,) = [
            each.pid for each in every() if each.name == "pulumi" and each.parent == os.getpid() and not each.has_ended
        ]
        os.kill(pulumi, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert project.up() == -signal.SIGKILL
    killer.join()
    command = int(mark.read_text())
    wait_for(lambda: (found := read(command)) is None or found.has_ended, "the command goes on")
    assert at_work(project.directory) == set()
    project.create("true")
    assert project.up() == 0


def test_they_end_when_the_run_that_started_them_is_killed(project: Project) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(project.directory)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ports = dict(each.split(":") for each in process.stdout.readline().strip().split(","))
        assert ports.keys() == {"command", "tls"}
        wait_for(lambda: len(at_work(project.directory)) == 2, "they are not started")
        process.kill()
    wait_for(lambda: not at_work(project.directory), "they do not end")
