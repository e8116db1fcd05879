"""Stand-in providers that run before the engine asks for them: with the real engine, on a project with one command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain import operations, paths, stack, state
from toolchain.prepare import Workshop
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
WAIT_SECONDS = 120.0


class Project:
    """A checkout in which two stand-ins are in use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "Pulumi.yaml").write_text("name: toy\nruntime: python\n")
        (directory / "__main__.py").write_text(PROGRAM)
        self.create("true")
        links = directory / ".state" / "plugins"
        links.mkdir(parents=True)
        self.started = directory / "started"
        for name in ("pulumi-resource-command", "pulumi-resource-tls"):
            script = links / name
            script.write_text(NOTED.format(name=name, started=self.started, standin=STANDINS / name))
            script.chmod(0o755)
        found, pulumi = state.ensure(), shutil.which("pulumi")
        assert pulumi, "no pulumi on PATH: `make test` puts it there"
        path = f"{links}:{os.environ['PATH']}"
        variables = {**found.environment, "PULUMI_SKIP_UPDATE_CHECK": "1", "PATH": path}
        self.workshop = Workshop(pulumi=Path(pulumi), state=found, environment=variables)

    def create(self, script: str) -> None:
        """Set the command's script."""
        lab = "{substrate: gcp}"
        (self.directory / "Pulumi.dev.yaml").write_text(
            f"config:\n  toy:create: {json.dumps(script)}\n  toy:lab: {lab}\n"
        )

    def starts(self) -> list[str]:
        """The stand-ins that were started since this was asked for, each with its words."""
        text = self.started.read_text()
        self.started.write_text("")
        return sorted(text.splitlines())

    def up(self) -> int:
        return operations.up(self.workshop, stack.read("dev"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in ("PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    return Project(tmp_path)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


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
