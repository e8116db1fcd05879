"""An import or a preview of the program changes nothing: checked by audit events of Python."""

import json
import subprocess
import sys

from lab.shipped import lab_of
from toolchain import paths
from unit.conftest import SHAPES
from unit.mocked_engine import COMMANDS, run_program

# Every process, connection and written file passes one of these (https://docs.python.org/3/library/audit_events.html).
WATCH = """
import json, os, sys
sys.path[:0] = {path!r}
import asyncio, runpy
import unit.mocked_engine as engine  # what the tests bring is not the program's doing
seen, watching = [], []
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "socket.connect",
             "socket.getaddrinfo", "socket.bind", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink",
             "os.chmod", "os.kill", "shutil.", "tempfile.", "webbrowser.", "urllib.")
def hook(event, arguments):
    if not watching:
        return
    if event == "open":
        file, mode, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and "__pycache__" not in str(file):
            seen.append([watching[0], event, str(file)])
    elif event.startswith(FORBIDDEN) and "__pycache__" not in str(arguments):
        seen.append([watching[0], event, str(arguments)[:200]])
sys.addaudithook(hook)
{body}
print(json.dumps(seen))
"""
PREVIEW = """
for stack, lab in json.loads(sys.stdin.read()).items():
    watching.append(stack)
    run = engine.run_program("dev", lab, preview=True)
    watching.clear()
    assert len(run.resources) > 50, stack
"""


def seen(body: str, stdin: str = "") -> list[list[str]]:
    """What a fresh interpreter did that leaves a trace."""
    path = [str(paths.checkout()), str(paths.checkout() / "tests")]
    result = subprocess.run(
        [sys.executable, "-B", "-c", WATCH.format(path=path, body=body)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=paths.checkout(),
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(found, list)
    return found


# One of each substrate, and both bootstrap methods: with what they import.
IMPORTED = ("dev", "droplets-test", "libvirt", "gcp-classic", "kubeadm-own")


def test_import_and_preview_start_no_process_open_no_connection_and_write_no_file() -> None:
    assert {SHAPES[stack].get("substrate") for stack in IMPORTED} == {each.get("substrate") for each in SHAPES.values()}
    assert seen(PREVIEW, json.dumps({stack: SHAPES[stack] for stack in IMPORTED})) == []


def test_process_connection_and_written_file_are_reported() -> None:
    body = """
watching.append("dev")
import socket, subprocess
subprocess.run(["true"])
open("/dev/null", "w")
try:
    socket.create_connection(("127.0.0.1", 1))
except OSError:
    pass
watching.clear()
"""
    events = {event for _, event, _ in seen(body)}
    assert {"subprocess.Popen", "open", "socket.connect"} <= events


def test_every_delete_command_is_known_in_a_preview() -> None:
    run = run_program("dev", lab_of("dev"), preview=True)
    for command in run.of_type(*COMMANDS):
        assert "delete" not in command.unknown, f"{command.name}: undoing must not depend on what a machine said"
