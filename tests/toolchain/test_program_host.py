"""What runs the program in the runs of `./hardway`: against the real engine, on a project with one resource."""

import json
import os
import pty
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy_project import begin, set_create, wait_for, workshop

from config.chapters import VARIABLE
from toolchain import operations, program_host, stack
from toolchain.errors import ToolchainError
from toolchain.processes import read

CHECKOUT = Path(__file__).parents[2]
PROGRAM = """
import json, os, sys
import pulumi, pulumi_command as command
command.local.Command("only", create=pulumi.Config("toy").require("create"))
found = {"variables": dict(os.environ), "directory": os.getcwd(), "program": sys.argv[0], "pid": os.getpid()}
with open("found.json", "w") as file:
    json.dump(found, file)
"""
# A run with a terminal of its own, as a user's.
RUN = """
import sys
from pathlib import Path
from toolchain import paths
checkout = Path(sys.argv[1])
paths.checkout = lambda: checkout
from toolchain.prepare import Workshop
from toolchain import operations, stack, state
found = state.ensure()
workshop = Workshop(pulumi=Path(sys.argv[2]), state=found, environment=found.environment)
sys.exit(operations.up(workshop, stack.read("dev")))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    begin(tmp_path, PROGRAM, monkeypatch)
    return tmp_path


def has_ended(pid: int) -> bool:
    found = read(pid)
    return found is None or found.has_ended


def test_a_run_starts_no_language_host(project: Path) -> None:
    host, called = project / "bin" / "pulumi-language-python", project / "called"
    host.parent.mkdir()
    host.write_text(f"#!/bin/sh\necho called >>{called}\nexit 1\n")
    host.chmod(0o755)
    there = workshop(PATH=f"{host.parent}:{os.environ['PATH']}")
    assert operations.preview(there, stack.read("dev")) == 0
    assert operations.up(there, stack.read("dev")) == 0
    assert operations.up(there, stack.read("dev")) == 0
    assert not called.exists()
    # It would have been found: the CLI itself, without the option, starts it.
    plain = subprocess.run(
        [there.pulumi, "preview", "--stack", "dev", "--non-interactive"],
        cwd=project,
        env=os.environ | there.environment,
        capture_output=True,
        text=True,
    )
    assert plain.returncode != 0
    assert called.exists(), plain.stderr


def test_the_program_is_started_as_by_a_language_host(project: Path) -> None:
    there = workshop(HARDWAY_A_VARIABLE="of the workshop")
    assert operations.up(there, stack.read("dev"), until="etcd") == 0
    found = json.loads((project / "found.json").read_text())
    assert found["directory"] == str(project)
    assert found["program"] == str(project / "__main__.py")
    assert found["variables"]["HARDWAY_A_VARIABLE"] == "of the workshop"
    assert found["variables"][VARIABLE] == "etcd"
    assert has_ended(found["pid"])


def test_what_the_program_prints_and_why_it_fails_are_shown_once(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "__main__.py").write_text("print('printed by the program')\nraise ValueError('no such luck')\n")
    assert operations.preview(workshop(), stack.read("dev")) != 0
    out, err = capfd.readouterr()
    assert err.count("printed by the program") == 1
    assert (out + err).count("ValueError: no such luck") == 1
    assert "line 2, in <module>\n" in out


def test_a_module_that_cannot_be_imported_is_an_error_of_the_program(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "__main__.py").write_text("from no_such_module import anything\n")
    assert operations.preview(workshop(), stack.read("dev")) != 0
    out, err = capfd.readouterr()
    assert (out + err).count("No module named 'no_such_module'") == 1
    assert "Traceback" not in err


def test_it_ends_when_the_run_that_started_it_is_killed(project: Path) -> None:
    """Before it serves, and while it serves."""
    for serve in ("", "host.serve({})"):
        script = (
            "import sys; from pathlib import Path; from toolchain import paths, program_host\n"
            "checkout = Path(sys.argv[1]); paths.checkout = lambda: checkout\n"
            f"host = program_host.ProgramHost(); {serve}\n"
            "print(host._process.pid, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(project)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            host = int(process.stdout.readline())
            assert not has_ended(host)
            process.kill()
        wait_for(lambda host=host: has_ended(host), "the process that runs the program does not end")  # type: ignore[misc]


def test_one_that_cannot_start_is_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = project / "python"
    interpreter.write_text("#!/bin/sh\nexit 3\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(ToolchainError, match="ended with status 3"):
        operations.preview(workshop(), stack.read("dev"))


def test_ctrl_c_in_a_terminal_ends_the_run_in_order(project: Path) -> None:
    marker = project / "begun"
    set_create(project, f"touch {marker}; sleep 1")
    there = workshop()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(CHECKOUT)
        os.execve(
            sys.executable,
            [sys.executable, "-c", RUN, str(project), str(there.pulumi)],
            os.environ | there.environment,
        )
    said = b""
    os.set_blocking(terminal, False)

    def reads() -> bool:
        nonlocal said
        try:
            said += os.read(terminal, 65536)
        except BlockingIOError:
            pass
        except OSError:
            return True
        return marker.exists()

    wait_for(reads, f"the resource is not begun: {said!r}")
    os.write(terminal, b"\x03")
    os.set_blocking(terminal, True)
    try:
        while more := os.read(terminal, 65536):
            said += more
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    text = said.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) not in (0, -signal.SIGINT), text
    # The official plugin and the stand-in say it each in its way.
    assert "cancel" in text
    assert "Traceback" not in text
    found = json.loads((project / "found.json").read_text())
    assert has_ended(found["pid"])
    assert operations.up(there, stack.read("dev")) == 0


@pytest.mark.parametrize(
    ("words", "starts"), [("preview --help", True), ("-s dev up --help", True), ("status --help", False)]
)
def test_the_command_starts_it_before_it_loads_itself(
    monkeypatch: pytest.MonkeyPatch, words: str, starts: bool
) -> None:
    done = []

    class Recorded:
        def __init__(self) -> None:
            done.append("started")

        def end(self) -> None:
            done.append("ended")

    monkeypatch.setattr(program_host, "ProgramHost", Recorded)
    monkeypatch.setattr(sys, "argv", ["hardway", *words.split()])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(CHECKOUT / "cli" / "__main__.py"), run_name="__main__")
    assert end.value.code == 0
    assert done == (["started", "ended"] if starts else [])
