"""The commands that a person types: `hardway ...` and plain `pulumi`, for the stack `test` or another."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from config import paths
from lab.polling import eventually

STACK = "test"
CHECKOUT = Path(__file__).parents[2]
_MINUTES = 5 * 60


def settings_file(stack: str) -> Path:
    """Pulumi.<stack>.yaml."""
    return paths.settings_file(stack)


SETTINGS = settings_file(STACK)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended, and all it printed."""

    code: int
    output: str

    @property
    def summary(self) -> dict[str, int]:
        """The CLI's closing count of resources: {"unchanged": 93}."""
        counted = re.search(r"^Resources:\n((?: +.+\n)+)", self.output, re.MULTILINE)
        assert counted, self.output
        rows = re.findall(r"^ +(?:\S+ )?(\d+) (\w[\w -]*)$", counted[1], re.MULTILINE)
        return {what.strip(): int(count) for count, what in rows}


class Started:
    """A command of `hardway` at work; every process that it starts is of its session."""

    def __init__(
        self,
        *arguments: str,
        show: Callable[[str], None] = lambda line: None,
        stack: str = STACK,
    ) -> None:
        self._process = subprocess.Popen(
            # A shell's background jobs, and all that they start, are deaf to Ctrl-C: tests may be such a job.
            ["env", "--default-signal=INT", sys.executable, "-m", "cli", "--stack", stack, *arguments],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(show,), daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        return "".join(self.lines)

    def wait(self, seconds: float = _MINUTES) -> Ran:
        """Its end."""
        try:
            code = self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired as late:
            self.kill_everything()
            raise AssertionError(f"still at work after {seconds} s:\n{self.output}") from late
        # Not joined for ever: a process that outlives the command may hold its output open.
        self._reader.join(timeout=5)
        return Ran(code=code, output=self.output)

    def says(self, pattern: str, *, seconds: float = 300) -> None:
        """Wait for a line that matches."""
        eventually(
            f"the line {pattern!r}",
            lambda: any(re.search(pattern, line) for line in list(self.lines)) or self._still_at_work(pattern),
            seconds=seconds,
            report=lambda: self.output,
            pause=0.05,
        )

    @property
    def is_at_work(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def cli(self) -> list[int]:
        """The Pulumi CLIs that it has started and that live."""
        return [pid for pid in self.processes() if _read(Path(f"/proc/{pid}/comm")) == b"pulumi\n"]

    def kill_cli(self) -> bool:
        """kill -9 of the Pulumi CLI alone; False where there was none at that moment."""
        # Two where it is just starting a plugin, which has its name until it is another program.
        killed = [pid for pid in self.cli() if _send(pid, signal.SIGKILL)]
        return bool(killed)

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it: to every process that the command started, too."""
        os.killpg(self._process.pid, signal.SIGINT)

    def freeze(self) -> None:
        """Stop all its processes where they are: they can only be killed any more."""
        frozen: set[int] = set()
        while moving := set(self.processes()) - frozen:
            frozen |= moving
            for pid in moving:
                _send(pid, signal.SIGSTOP)

    def kill_everything(self) -> None:
        """kill -9 of all its processes, as when the machine loses its power."""
        while processes := self.processes():
            for pid in processes:
                _send(pid, signal.SIGKILL)
            if self._process.poll() is not None and not set(processes) - {self._process.pid}:
                return

    def processes(self) -> list[int]:
        """The processes of its session that live."""
        return [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            # pid (comm) state ppid pgrp session
            if (fields := _read(stat).rpartition(b")")[2].split())
            and int(fields[3]) == self._process.pid
            and fields[0] != b"Z"
        ]

    def _still_at_work(self, waiting_for: str) -> bool:
        if not self.is_at_work:
            raise RuntimeError(f"ended before it said {waiting_for!r}:\n{self.output}")
        return False

    def _read(self, show: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            show(line)


def toolchain(*arguments: str, stack: str = STACK) -> Ran:
    """Run a command of the tool chain to its end."""
    return Started(*arguments, stack=stack).wait()


def live(*arguments: str) -> Ran:
    """Run a command for a running lab to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "--stack", STACK, *arguments],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_MINUTES,
        check=False,
    )
    return Ran(code=done.returncode, output=done.stdout + done.stderr)


def pulumi(*arguments: str, stack: str = STACK, stdin: str = "", **environment: str) -> Ran:
    """Run plain `pulumi`, in the environment that `./hardway env` prints; the settings file stays as it is.

    Args:
        arguments: of the command.
        stack: which.
        stdin: what it reads.
        environment: other values of variables.
    """
    file = settings_file(stack)
    settings = file.read_bytes()
    where = ["--config-file", str(file)] if arguments[0] != "stack" else []
    try:
        done = subprocess.run(
            ["pulumi", *arguments, "--stack", stack, *where, "--non-interactive"],
            cwd=CHECKOUT,
            env=_environment(stack) | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_MINUTES,
            check=False,
        )
    finally:
        # The CLI writes a salt into it; `stack init` into one beside Pulumi.yaml.
        file.write_bytes(settings)
        if (beside_project := CHECKOUT / file.name) != file:
            beside_project.unlink(missing_ok=True)
    return Ran(code=done.returncode, output=done.stdout if done.returncode == 0 else done.stdout + done.stderr)


def exported(*, secrets: bool = False, stack: str = STACK) -> str:
    """The state, as JSON text."""
    ran = pulumi("stack", "export", *(["--show-secrets"] if secrets else []), stack=stack)
    assert ran.code == 0, ran.output
    return ran.output


def resources(*, stack: str = STACK) -> list[dict[str, Any]]:
    """The resources in the state."""
    found: list[dict[str, Any]] = json.loads(exported(stack=stack))["deployment"].get("resources", [])
    return found


@cache
def _environment(stack: str) -> dict[str, str]:
    # As the README says: eval "$(make -s env)".
    script = f'eval "$({sys.executable} -m cli --stack {stack} env)" && env -0'
    done = subprocess.run(["bash", "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def _send(pid: int, what: signal.Signals) -> bool:
    """Send a signal; False where the process is gone already."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
