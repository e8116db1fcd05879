"""`hardway bench --workers 10 --workers 30`: the lab by the program with more and more workers.

The lab grows through all numbers; then it is made from nothing with each of them. Everything is removed at the end.
"""

import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import bench, program_lab
from benchmarks.commands import BenchmarkError, run, undisturbed
from benchmarks.labs import MeasuredLab
from benchmarks.memory import groups, processor_seconds, working_set
from benchmarks.program_lab import with_workers
from benchmarks.table import number
from toolchain import stack

_SECONDS = 900.0
_WIDTH = 160
_COLUMNS = ("", "workers", "seconds", "the program's CPU", "machines' CPU", "memory, MiB", "load before")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One command on the lab.

    Args:
        what: "up from nothing", "up with 20 workers more", ...
        workers: how many the lab has then.
        seconds: how long it took.
        program: seconds of processors that the program took: the command line, Pulumi, its plugins, ssh.
        machines: those that the machines took in the same time, whatever ran there.
        memory: of all machines afterwards, in MiB; None where it was not looked at.
        load: of the host before, the average of 1 minute.
    """

    what: str
    workers: int
    seconds: float
    program: float
    machines: float
    memory: float | None
    load: float


def main(lab: MeasuredLab, numbers: Sequence[int], *, json_file: Path | None = None) -> int:
    """Measure, print, and return the exit status: 1 where something could not be measured.

    Args:
        lab: which one.
        numbers: of workers.
        json_file: takes all figures, too.
    """
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    load = os.getloadavg()
    done: list[Measured] = []
    try:
        bench.refuse_what_is_taken(lab)
        with tempfile.TemporaryDirectory(prefix="hw-bench-") as name, _removed(lab, Path(name)):
            for measured in _measure(lab, sorted(set(numbers)), Path(name)):
                done.append(measured)
                print(f"{measured.what}, {measured.workers} workers: {measured.seconds:.1f} s", file=sys.stderr)
    except BenchmarkError as failure:
        print(f"\nerror: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything is removed.", file=sys.stderr)
        return 130
    finally:
        if done:
            # As wide as it is: a narrower terminal, or a file, would cut the first column.
            Console(highlight=False, soft_wrap=True, width=_WIDTH).print(table(done))
            if json_file is not None:
                json_file.write_text(json.dumps(document(lab, done, load_before=load), indent=2) + "\n")
    return 0


def document(lab: MeasuredLab, done: Sequence[Measured], *, load_before: Sequence[float]) -> dict[str, Any]:
    """All figures, and where they were measured, as JSON can hold them; docs/scale-workers.json is such a file."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "kubernetes": stack.read(lab.stack).kubernetes,
        "lab": lab.name,
        "cores": os.cpu_count(),
        "load_before": list(load_before),
        "load_after": list(os.getloadavg()),
        "workers": [asdict(each) for each in done],
    }


def table(done: Sequence[Measured]) -> Table:
    """A line for each command."""
    shown = Table(box=None, pad_edge=False)
    for title in _COLUMNS:
        shown.add_column(title, justify="right" if title else "left", no_wrap=True)
    for each in done:
        memory = "" if each.memory is None else f"{each.memory:.0f}"
        figures = (each.seconds, each.program, each.machines)
        shown.add_row(each.what, str(each.workers), *map(number, figures), memory, f"{each.load:.1f}")
    return shown


def _measure(lab: MeasuredLab, numbers: Sequence[int], directory: Path) -> Iterator[Measured]:
    program_lab.toolchain(lab, "setup", directory / "setup.log")
    before = 0
    for workers in numbers:
        what = f"up with {workers - before} workers more" if before else "up from nothing"
        with with_workers(lab.settings_file, workers):
            yield _command(lab, "up", what, workers, directory)
            yield _command(lab, "up", "up without a change", workers, directory)
            yield _command(lab, "preview", "preview", workers, directory)
        before = workers
    yield _command(lab, "destroy", "destroy", before, directory)
    for workers in numbers[1:]:
        with with_workers(lab.settings_file, workers):
            yield _command(lab, "up", "up from nothing", workers, directory)
        yield _command(lab, "destroy", "destroy", workers, directory)


def _command(lab: MeasuredLab, command: str, what: str, workers: int, directory: Path) -> Measured:
    load, program, machines = os.getloadavg()[0], _children(), processor_seconds(lab.stack)
    log = directory / f"{workers}-{what.replace(' ', '-')}.log"
    ran = run([sys.executable, "-m", "cli", "--stack", lab.stack, command], log=log, deadline=_SECONDS)
    stands = command != "destroy"
    return Measured(
        what=what,
        workers=workers,
        seconds=ran.seconds,
        program=_children() - program,
        # What ran on machines that are gone is not known.
        machines=processor_seconds(lab.stack) - machines if stands else 0.0,
        memory=working_set(lab.stack) if stands and groups(lab.stack) else None,
        load=load,
    )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _removed(lab: MeasuredLab, directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with undisturbed():
            program_lab.remove(lab, directory)
