"""The lab by the program: the stack `bench`, by the commands that a person types."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.commands import Ran, run
from benchmarks.figures import ProgramRound
from benchmarks.memory import working_set
from config.lab import PROJECT
from toolchain import paths

STACK = "bench"
PREFIX = f"hardway-{STACK}"
"""What the names of its network and of its containers begin with."""


def measure(directory: Path) -> ProgramRound:
    """Make the lab once, and take it away.

    Args:
        directory: a new one, for the logs.

    Raises:
        BenchmarkError: a command fails, or is not done in time.
    """
    directory.mkdir(parents=True)
    up = _toolchain("up", directory / "up.log")
    memory = working_set(PREFIX)
    second = _toolchain("up", directory / "second-up.log")
    changes = _changes(directory)
    preview = _toolchain("preview", directory / "preview.log")
    exported = json.loads(_pulumi("stack", "export", log=directory / "export.log").output)
    types = [each["type"] for each in exported["deployment"]["resources"] if "pulumi:providers:" not in each["type"]]
    destroy = _toolchain("destroy", directory / "destroy.log")
    return ProgramRound(
        up=up.seconds,
        second_up=second.seconds,
        changes=changes,
        preview=preview.seconds,
        destroy=destroy.seconds,
        memory=memory,
        resources=len(types),
        remote_commands=types.count("command:remote:Command"),
    )


def remove(directory: Path) -> None:
    """Remove all of it, however much there is, and the stack.

    Raises:
        BenchmarkError: it cannot be removed; the message has Pulumi's own words.
    """
    listing = run(["pulumi", "stack", "ls", "--json", "--non-interactive"], log=directory / "stacks.log", deadline=60)
    if STACK not in [stack["name"].rpartition("/")[2] for stack in json.loads(listing.output)]:
        return
    _toolchain("destroy", directory / "remove.log")
    _pulumi("stack", "rm", "--yes", "--preserve-config", log=directory / "remove-stack.log")
    # The backend keeps copies of a removed stack's state, and so the keys of labs that are no more.
    kept = paths.state() / ".pulumi"
    shutil.rmtree(kept / "backups" / PROJECT / STACK, ignore_errors=True)
    for copy in (kept / "stacks" / PROJECT).glob(f"{STACK}.json.bak*"):
        copy.unlink()


def _toolchain(command: str, log: Path) -> Ran:
    return run([sys.executable, "-m", "toolchain", "--stack", STACK, command], log=log)


def _pulumi(*arguments: str, log: Path) -> Ran:
    return run(["pulumi", *arguments, "--stack", STACK, "--non-interactive"], log=log, deadline=60)


def _changes(directory: Path) -> int:
    """How many resources the last `up` did not leave as they were."""
    history: list[dict[str, Any]] = json.loads(
        _pulumi("stack", "history", "--json", "--page-size=1", log=directory / "history.log").output
    )
    counted: Mapping[str, int] = history[0]["resourceChanges"]
    return sum(number for what, number in counted.items() if what != "same")
