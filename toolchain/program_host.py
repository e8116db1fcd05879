"""The process that runs the lab's program for the engine, in the runs of `./hardway`: started before the CLI.

Left to itself the CLI starts a language host twice for each command: to ask for the version of Python, and to run the
program. Pulumi's own host runs pip each time, and Python again for the program (3.259.0: sdk/python/toolchain/pip.go).
With `--client`, the option by which the Automation API of Pulumi's SDKs runs a program, the CLI uses a running server.
It is started when a run begins, so that the SDK and the program's modules are loaded when the engine asks for them.

Plain `pulumi` uses the language host that it finds.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from toolchain import paths
from toolchain.errors import ToolchainError

_CODE = Path(__file__).resolve().parents[1]
# As the plugins' (from_source/standins/bin): PYTHONPATH would reach every command that the program runs.
_SERVER = "import sys; sys.path[0] = sys.argv.pop(); from toolchain.program_server import main; main()"


class ProgramHost:
    """One such process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(_CODE)],
            cwd=paths.checkout(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in the terminal is for the CLI: the program ends when the engine has ended its resources.
            process_group=0,
        )

    def serve(self, environment: Mapping[str, str]) -> str:
        """Have it serve the engine.

        Args:
            environment: the variables that the program gets; others keep the values that they have here.

        Returns:
            The address, for `--client`.

        Raises:
            ToolchainError: it has ended; what it said stands on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(dict(environment)) + "\n")
            self._process.stdin.flush()
        if port := self._process.stdout.readline().strip():
            return f"127.0.0.1:{port}"
        raise ToolchainError(f"The process that runs the program ended with status {self._process.wait()}.")

    def end(self) -> None:
        """End it: the engine has all that it had to tell. It also ends when this process does, however that happens."""
        self._process.kill()
        # What it did not read is of no use any more.
        with suppress(BrokenPipeError), self._process:
            pass


@contextmanager
def started(existing: ProgramHost | None = None) -> Iterator[ProgramHost]:
    """Such a process, until the `with` block ends.

    Args:
        existing: a process that runs: it is used, and not ended here.
    """
    if existing:
        yield existing
        return
    host = ProgramHost()
    try:
        yield host
    finally:
        host.end()
