"""`hardway bench`: the same lab by plain shell and by the program, in turn; prints what each took, beside the bars.

Everything it makes is removed at the end, also after Ctrl-C and errors. A missed bar is no failure: it measures.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks import files, program_lab, shell_lab
from benchmarks.commands import BenchmarkError, undisturbed
from benchmarks.figures import Round, document, rows
from benchmarks.labs import LABS, MeasuredLab
from benchmarks.steal import Steal
from benchmarks.table import number, table
from toolchain import node_image, paths

_PREFLIGHT = paths.checkout() / "components" / "substrates" / "containers" / "preflight.py"
_console = Console(highlight=False)


def main(lab: MeasuredLab, *, rounds: int, json_file: Path | None = None) -> int:
    """Measure, print, and return the exit status: 1 where something could not be measured.

    Args:
        lab: which one.
        rounds: how many, one at least.
        json_file: takes all figures, too.
    """
    # SIGINT as well: a shell that put us into the background has it ignored.
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    load_before, steal = os.getloadavg(), Steal()
    try:
        refuse_what_is_taken(lab)
        measured = measure(lab, rounds)
    except BenchmarkError as failure:
        # Where removing fails too, the first reason comes first.
        for reason in (failure.__context__, failure):
            if isinstance(reason, BenchmarkError):
                print(f"\nerror: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything is removed.", file=sys.stderr)
        return 130
    load_after, stolen = os.getloadavg(), steal.share
    title = f"Median of {rounds} rounds (least - most)" if rounds > 1 else "One round"
    _console.print(table(rows(measured, lab.bars), title=f"The lab {lab.name}. {title}"))
    _console.print(
        f"{os.cpu_count()} cores; load before {_load(load_before)}, after {_load(load_after)}. "
        f"Other virtual machines had {stolen:.0%} of the processor time. Memory: cgroup usage without inactive files."
    )
    if json_file is not None:
        surroundings = {
            "cores": os.cpu_count(),
            "load_before": load_before,
            "load_after": load_after,
            "stolen": round(stolen, 3),
        }
        report = {"lab": lab.name, **document(measured, lab.bars), **surroundings}
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measure(lab: MeasuredLab, rounds: int) -> list[Round]:
    """Both labs in turn, as often as asked; never both at once."""
    done = []
    # Certificates' keys lie there: for our eyes only, as mkdtemp makes it.
    with tempfile.TemporaryDirectory(prefix="hw-bench-") as name, _everything_removed(lab, Path(name)):
        # Some labs have artifacts of their own; plain shell finds them in the mirror, too.
        program_lab.toolchain(lab, "setup", Path(name) / "setup.log")
        for turn in range(1, rounds + 1):
            directory, steal = Path(name) / f"round-{turn}", Steal()
            shell = shell_lab.measure(lab, directory / "shell")
            shell_lab.remove(lab)
            _console.print(f"round {turn} of {rounds}: plain shell {number(shell.total)} s", end="")
            program = program_lab.measure(lab, directory / "program")
            done.append(Round(shell=shell, program=program))
            _console.print(
                f", the program {number(program.up)} s, ratio {number(done[-1].ratio)}; stolen {steal.share:.0%}"
            )
    return done


def refuse_what_is_taken(lab: MeasuredLab) -> None:
    """Start only where no other benchmark is at work, and the ranges are free.

    Raises:
        BenchmarkError: with every failed precondition.
    """
    if os.geteuid() != 0:
        raise BenchmarkError("The labs are privileged containers, which only root may make. Run this with sudo.")
    if shutil.which("pulumi") is None:
        raise BenchmarkError("There is no pulumi on PATH: run this by `./hardway bench`, which has the tool chain's.")
    ways_out = {
        files.NAME: f"podman rm -f -t 0 -v $(podman ps -aq --filter label=hardway.lab={files.NAME}); "
        f"podman network rm {shell_lab.PREFIX}",
        **{each.stack: f"./hardway destroy -s {each.stack}" for each in LABS.values()},
    }
    standing = {name: found for name in ways_out if (found := _made_for(name))}
    if standing:
        raise BenchmarkError(
            f"There are already {', '.join(name for found in standing.values() for name in found)}: "
            "a benchmark is at work, or one was killed. Nothing was changed.\nWait for it, or remove its lab with\n  "
            + "\n  ".join(ways_out[name] for name in standing)
        )
    networks = [files.NETWORK, lab.settings["network"]]
    ranges = [network[key] for network in networks for key in ("nodes", "pods")]
    preflight = subprocess.run(
        [
            sys.executable,
            _PREFLIGHT,
            "--engine=podman",
            f"--network={shell_lab.PREFIX}",
            f"--image={node_image.reference()}",
            f"--mirror={paths.mirror()}",
            f"--machines={len(files.lab(lab).machines) + lab.grows}",
            "--ranges",
            *ranges,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if preflight.returncode != 0:
        raise BenchmarkError(preflight.stderr.strip())


@contextmanager
def _everything_removed(lab: MeasuredLab, directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with undisturbed():
            shell_lab.remove(lab)
            program_lab.remove(lab, directory)


def _made_for(name: str) -> list[str]:
    """Every container and network of a lab."""
    label = ["--filter", f"label=hardway.lab={name}"]
    return [
        *_lines("podman", "ps", "--all", "--format", "{{.Names}}", *label),
        *_lines("podman", "network", "ls", "--format", "{{.Name}}", *label),
    ]


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def _load(averages: tuple[float, float, float]) -> str:
    return " ".join(f"{average:.1f}" for average in averages)
