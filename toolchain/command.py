"""Running other programs: their last line of output is shown while they run, the last twenty when they fail."""

import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from toolchain.errors import ToolchainError
from toolchain.progress import Part

_LINES_OF_A_FAILURE = 20


def ask(*command: str | Path, stdin: str | None = None, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a command for what it prints, which is not shown, however it ends.

    Args:
        command: the program and its arguments. No secrets: everybody on the machine can read them.
        stdin: what it reads; nothing if not given.
        settings: `cwd`, `env` and `timeout` of `subprocess.run`.
    """
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(command, capture_output=True, text=True, check=False, **given, **settings)


def run(
    part: Part,
    command: Sequence[str | Path],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    describe: Callable[[str], str] = str,
) -> None:
    """Run a command to its end.

    Args:
        part: shows what the command says.
        command: the program and its arguments. No secrets: everybody on the machine can read them.
        directory: where it runs; the caller's directory if not given.
        environment: its whole environment; the caller's if not given.
        stdin: what it reads; nothing if not given.
        stdout: takes the command's output, where that is the result rather than talk.
        describe: makes the words to show out of a line of talk.

    Raises:
        ToolchainError: it cannot be started, or ends with another status than 0.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE if stdout else subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as missing:
        raise ToolchainError(
            f"{command[0]} is not installed. `./hardway setup` installs it; so does the machine's package manager."
        ) from missing
    last: deque[str] = deque(maxlen=_LINES_OF_A_FAILURE)
    with process:
        try:
            for line in (process.stderr if stdout else process.stdout) or ():
                last.append(line.rstrip())
                part.say(describe(line))
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        shown = " ".join(str(word) for word in command[:4])
        raise ToolchainError(f"`{shown} ...` ended with status {process.returncode}. It said:\n  " + "\n  ".join(last))
