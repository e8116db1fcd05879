"""A Pulumi project with a state of its own, run by the real engine and the stand-in plugins."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).parents[2]
_PLUGINS = _CHECKOUT / "toolchain" / "from_source" / "standins" / "bin"
_SECONDS = 300
_NAME = "engine-test"
_STACK = "test"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command of the CLI ended, and all it printed."""

    code: int
    output: str

    @property
    def ok(self) -> bool:
        return self.code == 0


class Project:
    """A Pulumi project in a directory, with one stack in a state of its own."""

    def __init__(self, pulumi: str, home: Path) -> None:
        self._pulumi = pulumi
        self._home = home
        self.directory = home / "project"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")} | {
            "PATH": f"{_PLUGINS}:{os.environ['PATH']}",
            "HARDWAY_PYTHON": sys.executable,
            "PULUMI_HOME": str(home / "home"),
            "PULUMI_BACKEND_URL": f"file://{home / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "a passphrase for tests",
            "PULUMI_STACK": _STACK,
            "PULUMI_SKIP_UPDATE_CHECK": "1",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }

    def create(self) -> None:
        """Make the project and its stack, without a program."""
        self.directory.mkdir()
        (self._home / "state").mkdir()
        (self.directory / "Pulumi.yaml").write_text(f"name: {_NAME}\nruntime: python\n")
        self.pulumi("stack", "init", _STACK, ok=True)

    def copy(self, home: Path) -> "Project":
        """The same project again, somewhere else."""
        shutil.copytree(self._home, home, dirs_exist_ok=True)
        return Project(self._pulumi, home)

    def program(self, text: str) -> None:
        """Give the project another program."""
        (self.directory / "__main__.py").write_text(text)

    def pulumi(self, *arguments: str, ok: bool | None = None, stdin: str | None = None) -> Ran:
        """Run the CLI; with `ok`, a test fails that expected another end."""
        done = subprocess.run(
            [self._pulumi, "--non-interactive", *arguments],
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        ran = Ran(code=done.returncode, output=done.stdout)
        assert ok is None or ran.ok == ok, ran.output
        return ran

    def up(self, *, ok: bool = True) -> Ran:
        return self.pulumi("up", "--yes", "--skip-preview", "--parallel", "64", ok=ok)

    def preview(self, *, ok: bool = True) -> Ran:
        return self.pulumi("preview", "--diff", ok=ok)

    def destroy(self) -> Ran:
        return self.pulumi("destroy", "--yes", "--skip-preview", ok=True)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run the CLI without waiting for it."""
        return subprocess.Popen(
            [self._pulumi, "--non-interactive", *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def state(self) -> Path:
        """The file that the stack's state is in, as it lies on the disk."""
        return self._home / "state" / ".pulumi" / "stacks" / _NAME / f"{_STACK}.json"

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, secrets shown."""
        found: dict[str, Any] = self.resources()[f"pulumi:pulumi:Stack::{_NAME}-{_STACK}"]["outputs"]
        return {name: revealed(value) for name, value in found.items()}

    def resources(self) -> dict[str, dict[str, Any]]:
        """The resources in the state, secrets shown, by type and name."""
        text = self.pulumi("stack", "export", "--show-secrets", ok=True).output
        found = json.loads(text[text.index("{") :])["deployment"].get("resources", [])
        return {"::".join(resource["urn"].split("::")[2:]): resource for resource in found}

    def processes(self) -> dict[int, str]:
        """The command lines of all processes that were started for this project and still live, by their ids."""
        mark = f"PULUMI_HOME={self.environment['PULUMI_HOME']}".encode()
        return {
            int(process.name): _read(process / "cmdline").replace(b"\0", b" ").decode()
            for process in Path("/proc").glob("[0-9]*")
            if mark in _read(process / "environ").split(b"\0")
        }

    def kill(self) -> None:
        """kill -9 of all these processes, as when the machine loses its power."""
        while processes := self.processes():
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def revealed(value: Any) -> Any:
    """A property's value as exported with its secrets, without the marks."""
    return json.loads(value["plaintext"]) if isinstance(value, dict) and "plaintext" in value else value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
