"""The lab by plain shell: made by a script of this folder, compared with what the program would have made, removed."""

import subprocess
import sys
from pathlib import Path

from benchmarks import files
from benchmarks.commands import BenchmarkError, run
from benchmarks.figures import ShellRound
from benchmarks.labs import MeasuredLab
from benchmarks.memory import working_set
from components.substrates.containers.substrate import delete_network
from toolchain import node_image, paths

PREFIX = "hw-bench"
"""What the names of its network and of its containers begin with."""


def measure(lab: MeasuredLab, directory: Path) -> ShellRound:
    """Make the lab once. It is left standing.

    Args:
        lab: which.
        directory: a new one, for the files, certificates and logs.

    Raises:
        BenchmarkError: it does not come up, or is not all that the program would have made.
    """
    ready = directory / "files"
    ready.mkdir(parents=True)
    run([sys.executable, "-m", "benchmarks.files", lab.name, ready], log=directory / "files.log")
    script = Path(__file__).with_name(lab.script)
    made = run(["bash", script, ready, paths.mirror(), node_image.reference()], log=directory / f"{script.stem}.log")
    memory = working_set(files.NAME)
    for machine in files.lab(lab).machines:
        _check_complete(machine.name, ready / machine.name)
    phases = (line.split() for line in made.output.splitlines())
    return ShellRound(phases={name: float(seconds) for name, seconds in phases}, memory=memory)


def remove(lab: MeasuredLab) -> None:
    """Remove all of it, however much there is; the last lab on the Pulumi host restores its sysctls.

    Raises:
        BenchmarkError: it cannot be removed.
    """
    # The network is the first that is made, and the last that goes.
    if subprocess.run(["podman", "network", "exists", PREFIX], check=False, timeout=60).returncode != 0:
        return
    script = delete_network("podman", PREFIX, files.lab(lab).name)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise BenchmarkError(f"plain shell's lab {PREFIX} cannot be removed: {done.stderr.strip()}")


def _check_complete(machine: str, planned: Path) -> None:
    """Hold a machine against the program's: every file with its mode and owner, every unit running."""
    expected = set((planned / "expected.txt").read_text().splitlines())
    paths_there = [line.split(maxsplit=2)[2] for line in expected]
    found = set(_on(machine, "stat", "--dereference", "--format", "%a %U %n", *paths_there).splitlines())
    units = (planned / "units.txt").read_text().split()
    states = dict(zip(units, _on(machine, "systemctl", "is-active", *units).splitlines(), strict=True))
    wrong = sorted(expected - found) + sorted(
        f"{unit} is {state}" for unit, state in states.items() if state != "active"
    )
    if wrong:
        raise BenchmarkError(
            f"plain shell did not do the same work as the program: {machine} lacks\n  " + "\n  ".join(wrong)
        )


def _on(machine: str, *command: str) -> str:
    executed = ["podman", "exec", f"{PREFIX}-{machine}", *command]
    return subprocess.run(executed, capture_output=True, text=True, check=False, timeout=60).stdout
