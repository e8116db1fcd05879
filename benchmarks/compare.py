"""`hardway compare`: the hard way and kubeadm on the same containers, one after the other; prints what each costs.

Everything it makes is removed at the end, also after Ctrl-C and errors.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks import program_lab
from benchmarks.commands import BenchmarkError, undisturbed
from benchmarks.labs import LABS, MeasuredLab
from benchmarks.memory import working_set
from benchmarks.table import number

WAYS = {"hard way": LABS["dev"], "kubeadm": LABS["kubeadm"]}

_CONFIGURED = "/etc/kubernetes/config /var/lib/kubelet /etc/containerd /etc/cni/net.d"
_PLACES = "/etc/kubernetes /etc/etcd /var/lib/kubelet/pki"
_KINDS: Mapping[str, str] = {
    "systemd units": "grep -lE 'kube|etcd|containerd|hardway' /etc/systemd/system/*.service",
    "static pods": "grep -lxE 'kind: Pod' /etc/kubernetes/manifests/*.yaml",
    "certificates": f"find {_PLACES} -name '*.crt' -o -name 'kubelet-client-2*.pem'",
    "keys": f"find {_PLACES} -name '*.key'",
    "kubeconfigs": "grep -lxE 'kind: Config' /etc/kubernetes/*.conf /etc/kubernetes/*.kubeconfig",
    "configuration files": f"find {_CONFIGURED} -maxdepth 1 -type f",
    "manifests applied from here": "find /etc/kubernetes/manifests -type f -exec grep -LxE 'kind: Pod' {} +",
}
"""What is counted on every machine: what it is called -> the command that lists it."""

# A line for each process: kibibytes resident, and its name; and one for each file: its kind and path.
_LOOK = "\n".join(
    [
        "shopt -s nullglob",
        "ps -eo rss=,comm= | sed 's,^ *,process ,'",
        *(
            f"{command} 2>/dev/null </dev/null | sed 's,^,file {kind.replace(' ', '-')} ,'"
            for kind, command in _KINDS.items()
        ),
        "true",
    ]
)
# The machine's own, which every lab has.
_OF_THE_MACHINE = {"systemd", "systemd-journal", "sshd", "dbus-daemon", "ps", "bash", "sh", "cron", "agetty", "sed"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one lab took and holds.

    Args:
        up, second_up, destroy: seconds.
        working_set: MiB, as the kernel charges all containers.
        resident: MiB, of all processes of the cluster.
        processes: name -> how many.
        files: kind -> their paths, with the machine's name before them.
    """

    up: float
    second_up: float
    destroy: float
    working_set: float
    resident: float
    processes: Mapping[str, int]
    files: Mapping[str, Sequence[str]]


def main(*, rounds: int, json_file: Path | None = None, files: bool = False) -> int:
    """Measure both, print the table, and return the exit status.

    Args:
        rounds: how many.
        json_file: takes all figures, too.
        files: list the files, too.
    """
    if os.geteuid() != 0 or shutil.which("pulumi") is None:
        print("error: the labs are privileged containers: run `hardway compare` as root.", file=sys.stderr)
        return 1
    load = os.getloadavg()
    costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
    try:
        with tempfile.TemporaryDirectory(prefix="hw-compare-") as name:
            for turn in range(rounds):
                for way, lab in WAYS.items():
                    costs[way].append(measure(lab, Path(name) / f"{turn}-{lab.stack}"))
    except BenchmarkError as failure:
        print(f"\nerror: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything is removed.", file=sys.stderr)
        return 130
    console = Console(highlight=False)
    console.print(table(costs))
    console.print(f"{os.cpu_count()} cores; load before {load[0]:.1f}, after {os.getloadavg()[0]:.1f}.")
    if files:
        for way, measured in costs.items():
            for kind, paths in measured[-1].files.items():
                console.print(f"\n{way}, {kind}:", *sorted(paths), sep="\n  ")
    if json_file is not None:
        json_file.write_text(json.dumps({way: [asdict(cost) for cost in of] for way, of in costs.items()}, indent=2))
    return 0


def measure(lab: MeasuredLab, directory: Path) -> Cost:
    """Make a lab, look at it, and take it away.

    Raises:
        BenchmarkError: a command fails, or is not done in time.
    """
    directory.mkdir(parents=True)
    try:
        up = program_lab.toolchain(lab, "up", directory / "up.log")
        charged = working_set(lab.stack)
        said = look(lab.stack)
        second = program_lab.toolchain(lab, "up", directory / "second-up.log")
        destroy = program_lab.toolchain(lab, "destroy", directory / "destroy.log")
    finally:
        with undisturbed():
            program_lab.remove(lab, directory)
    processes, resident, files = read(said)
    return Cost(
        up=up.seconds,
        second_up=second.seconds,
        destroy=destroy.seconds,
        working_set=charged,
        resident=resident,
        processes=processes,
        files=files,
    )


def look(stack: str) -> dict[str, str]:
    """Machine -> what `_LOOK` says there."""
    listing = ["podman", "ps", "--filter", f"label=hardway.lab={stack}", "--format", "{{.Names}}"]
    containers = subprocess.run(listing, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    return {
        container.removeprefix(f"hardway-{stack}-"): subprocess.run(
            ["podman", "exec", container, "bash", "-c", _LOOK], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for container in containers
    }


def read(said: Mapping[str, str]) -> tuple[dict[str, int], float, dict[str, list[str]]]:
    """Processes by name, their resident MiB, and files by kind, out of what the machines said."""
    processes: dict[str, int] = {}
    files: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    resident = 0
    for machine, text in said.items():
        for line in text.splitlines():
            word, first, rest = line.split(maxsplit=2)
            if word == "file":
                files[first.replace("-", " ")].append(f"{machine}:{rest}")
            elif rest not in _OF_THE_MACHINE:
                processes[rest] = processes.get(rest, 0) + 1
                resident += int(first)
    return processes, resident / 1024, files


def table(costs: Mapping[str, Sequence[Cost]]) -> Table:
    """A line for each figure, a column for each way; medians of all rounds."""
    shown = Table(title="The same machines, both ways", title_justify="left")
    shown.add_column("")
    for way in costs:
        shown.add_column(way, justify="right")

    def row(what: str, values: Iterable[float]) -> None:
        shown.add_row(what, *(number(value) for value in values))

    for what, unit in (("up", "s"), ("second_up", "s"), ("destroy", "s"), ("working_set", "MiB"), ("resident", "MiB")):
        name = what.replace("_", " ")
        row(f"{name} ({unit})", (median(getattr(cost, what) for cost in of) for of in costs.values()))
    last = [of[-1] for of in costs.values()]
    row("processes", (sum(cost.processes.values()) for cost in last))
    for name in sorted({name for cost in last for name in cost.processes}):
        row(f"  {name}", (cost.processes.get(name, 0) for cost in last))
    for kind in _KINDS:
        row(kind, (len(cost.files[kind]) for cost in last))
    return shown
