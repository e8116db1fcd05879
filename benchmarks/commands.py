"""Running one command of a benchmark: timed, silent unless it fails, and never longer than it may."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from toolchain import paths

_LINES_OF_A_FAILURE = 40
# Pulumi ends in order at the first interrupt, and breaks off at the second.
_ENDINGS = ((signal.SIGINT, 60), (signal.SIGINT, 20), (signal.SIGTERM, 10), (signal.SIGKILL, 10))


class BenchmarkError(Exception):
    """What could not be measured, and why."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that ended well: what it printed, and how many seconds it took."""

    output: str
    seconds: float


def run(command: Sequence[str | Path], *, log: Path, deadline: float = 300) -> Ran:
    """Run a command in the checkout, in a session of its own, so that Ctrl-C reaches it through us alone.

    Args:
        command: the program and its arguments.
        log: takes what it says on standard error.
        deadline: in seconds.

    Raises:
        BenchmarkError: it ended badly, or not in time.
    """
    with log.open("wb+") as said, log.with_suffix(".out").open("wb+") as printed:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=paths.checkout(),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=said,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=deadline)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(
                f"{_title(command)} had not ended after {deadline} s.\n{_tail(printed.name, log)}"
            ) from None
        finally:
            seconds = time.monotonic() - started
            _end(process)
    if code != 0:
        raise BenchmarkError(f"{_title(command)} ended with status {code}.\n{_tail(printed.name, log)}")
    return Ran(output=Path(printed.name).read_text(errors="replace"), seconds=seconds)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C and its like wait: a second one must not leave half a lab behind."""

    def wait(number: int, frame: FrameType | None) -> None:
        print("\nEnding what is at work, and removing what was made: a moment.", file=sys.stderr)

    before = {ending: signal.signal(ending, wait) for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)


@undisturbed()
def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that is still at work; with it what it began in the background, where it has ended itself."""
    for number, seconds in _ENDINGS:
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _title(command: Sequence[str | Path]) -> str:
    return f"`{' '.join(str(word) for word in command[:6])}`"


def _tail(*files: str | Path) -> str:
    lines = [line for file in files for line in Path(file).read_text(errors="replace").splitlines()]
    return "The last that it said:\n  " + "\n  ".join(lines[-_LINES_OF_A_FAILURE:])
