"""The lab by the program: a stack of its own, by the commands that a person types."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.commands import BenchmarkError, Ran, run, undisturbed
from benchmarks.figures import ProgramRound
from benchmarks.labs import MeasuredLab
from benchmarks.memory import working_set
from config.lab import PROJECT
from toolchain import paths


def measure(lab: MeasuredLab, directory: Path) -> ProgramRound:
    """Make the lab once, and take it away.

    Args:
        lab: which.
        directory: a new one, for the logs.

    Raises:
        BenchmarkError: a command fails, or is not done in time.
    """
    directory.mkdir(parents=True)
    up = toolchain(lab, "up", directory / "up.log")
    memory = working_set(lab.stack)
    second = toolchain(lab, "up", directory / "second-up.log")
    changes = sum(number for what, number in _changes(lab, directory).items() if what != "same")
    preview = toolchain(lab, "preview", directory / "preview.log")
    exported = json.loads(_pulumi(lab, "stack", "export", log=directory / "export.log").output)
    types = [each["type"] for each in exported["deployment"]["resources"] if "pulumi:providers:" not in each["type"]]
    one_more_worker = _one_more_worker(lab, directory) if lab.grows else None
    destroy = toolchain(lab, "destroy", directory / "destroy.log")
    return ProgramRound(
        up=up.seconds,
        second_up=second.seconds,
        changes=changes,
        preview=preview.seconds,
        destroy=destroy.seconds,
        memory=memory,
        resources=len(types),
        remote_commands=types.count("command:remote:Command"),
        one_more_worker=one_more_worker.seconds if one_more_worker else None,
    )


@contextmanager
def with_workers(settings_file: Path, workers: int) -> Iterator[None]:
    """The settings with so many workers, as a person would write that; put back as they were in every case."""
    before = settings_file.read_bytes()
    document = yaml.safe_load(before)
    document["config"][f"{PROJECT}:lab"]["workers"] = workers
    try:
        settings_file.write_text(yaml.safe_dump(document, sort_keys=False))
        yield
    finally:
        with undisturbed():
            settings_file.write_bytes(before)


def remove(lab: MeasuredLab, directory: Path) -> None:
    """Remove all of it, however much there is, and the stack.

    Raises:
        BenchmarkError: it cannot be removed; the message has Pulumi's own words.
    """
    listing = run(["pulumi", "stack", "ls", "--json", "--non-interactive"], log=directory / "stacks.log", deadline=60)
    if lab.stack not in [stack["name"].rpartition("/")[2] for stack in json.loads(listing.output)]:
        return
    toolchain(lab, "destroy", directory / "remove.log")
    _pulumi(lab, "stack", "rm", "--yes", "--preserve-config", log=directory / "remove-stack.log")
    # The backend keeps copies of a removed stack's state, and so the keys of labs that are no more.
    kept = paths.state() / ".pulumi"
    shutil.rmtree(kept / "backups" / PROJECT / lab.stack, ignore_errors=True)
    for copy in (kept / "stacks" / PROJECT).glob(f"{lab.stack}.json.bak*"):
        copy.unlink()


def _one_more_worker(lab: MeasuredLab, directory: Path) -> Ran:
    with with_workers(lab.settings_file, lab.settings["workers"] + 1):
        up = toolchain(lab, "up", directory / "one-more-worker.log")
    if not _changes(lab, directory).get("create"):
        raise BenchmarkError(f"The `up` that was to add a worker to the stack {lab.stack} made nothing.")
    return up


def toolchain(lab: MeasuredLab, command: str, log: Path) -> Ran:
    """Run a command of the tool chain on the lab's stack.

    Raises:
        BenchmarkError: it fails, or is not done in time.
    """
    return run([sys.executable, "-m", "cli", "--stack", lab.stack, command], log=log)


def _pulumi(lab: MeasuredLab, *arguments: str, log: Path) -> Ran:
    return run(["pulumi", *arguments, "--stack", lab.stack, "--non-interactive"], log=log, deadline=60)


def _changes(lab: MeasuredLab, directory: Path) -> Mapping[str, int]:
    """What the last `up` did (create, same ...) -> to how many resources."""
    history: list[dict[str, Any]] = json.loads(
        _pulumi(lab, "stack", "history", "--json", "--page-size=1", log=directory / "history.log").output
    )
    counted: Mapping[str, int] = history[0]["resourceChanges"]
    return counted
