"""`./hardway cis`: the CIS Kubernetes Benchmark 1.12 on the machines of a running lab, checked by kube-bench.

kube-bench is built from its Go module (toolchain/from_source/modules/kube-bench). The benchmark's data come from a
checkout of kube-bench that the user names: the module's release does not have this version yet. On a machine all of it
is in one directory, which is removed again.
"""

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from config.machines import Role
from live.cluster import Cluster, LiveMachine
from toolchain import access, paths
from toolchain.errors import ToolchainError
from toolchain.from_source import gomodule
from toolchain.from_source.gomodule import Programs
from toolchain.progress import Report

BENCHMARK = "cis-1.12"
PATHS = Path("config", "kube-bench.yaml")
"""Where the programs of the hard way have their files; kubeadm's are those that the benchmark expects."""
_PROGRAMS = Programs(module="kube-bench", packages={"kube-bench": "github.com/aquasecurity/kube-bench"})
_TARGETS = ("master", "controlplane", "etcd", "node")
_STATES = ("PASS", "FAIL", "WARN", "INFO")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the benchmark on one machine.

    Args:
        number, text: as in the benchmark.
        state: PASS, FAIL, WARN (a person has to look) or INFO.
        reason: what kube-bench says of it.
    """

    number: str
    text: str
    state: str
    reason: str


def check(cluster: Cluster, checkout: str) -> dict[str, list[Check]]:
    """Run the benchmark on all machines that carry a part of the cluster.

    Args:
        cluster: the lab.
        checkout: of kube-bench, with the benchmark's data.

    Returns:
        Machine -> its checks.

    Raises:
        ToolchainError: the data are not there, or kube-bench cannot be built or run.
    """
    data = _data(checkout)
    machines = [machine for machine in cluster.machines if targets(cluster, machine)]
    with ThreadPoolExecutor(max_workers=len(machines)) as threads:
        architectures = list(threads.map(lambda machine: _architecture(cluster, machine), machines))
        archives = {arch: archive(_program(arch), data, by_kubeadm=cluster.by_kubeadm) for arch in set(architectures)}
        ran = threads.map(lambda machine, arch: _run(cluster, machine, archives[arch]), machines, architectures)
        return dict(zip([machine.name for machine in machines], ran, strict=True))


def passes(found: Mapping[str, Sequence[Check]]) -> bool:
    """Whether no check fails."""
    return not any(each.state == "FAIL" for checks in found.values() for each in checks)


def targets(cluster: Cluster, machine: LiveMachine) -> list[str]:
    """The parts of the benchmark that concern a machine."""
    concerned = {
        "master": Role.CONTROLLER in machine.roles,
        "controlplane": Role.CONTROLLER in machine.roles,
        "etcd": machine in cluster.etcd_members,
        "node": machine in cluster.nodes,
    }
    return [target for target in _TARGETS if concerned[target]]


def archive(program: Path, data: Path, *, by_kubeadm: bool) -> bytes:
    """The program and the benchmark's data, with the lab's own paths where they are not kubeadm's."""
    out = io.BytesIO()
    with gzip.open(out, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(program, "kube-bench")
        tar.add(data / "config.yaml", "cfg/config.yaml")
        for name in (*(f"{target}.yaml" for target in _TARGETS), "config.yaml"):
            is_ours = name == "config.yaml" and not by_kubeadm
            tar.add(paths.checkout() / PATHS if is_ours else data / BENCHMARK / name, f"cfg/{BENCHMARK}/{name}")
    return out.getvalue()


def script(targets_: Sequence[str]) -> str:
    """The shell lines that run kube-bench; the archive is their standard input."""
    # Below /usr/local: /tmp and /var may be mounted noexec.
    return f"""set -euo pipefail
directory=$(mktemp -d /usr/local/lib/kube-bench.XXXXXX)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
tar -xz --no-same-owner
./kube-bench --config-dir cfg --config cfg/config.yaml --benchmark {BENCHMARK} \\
  run --targets {",".join(targets_)} --json"""


def parse(printed: str) -> list[Check]:
    """The checks in what `kube-bench --json` prints.

    Raises:
        ToolchainError: there are none.
    """
    try:
        checks = [
            Check(
                number=result["test_number"],
                text=result["test_desc"],
                state=result["status"],
                reason=result.get("reason") or "",
            )
            for control in json.loads(printed)["Controls"]
            for group in control["tests"]
            for result in group["results"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ToolchainError(f"kube-bench did not print its report: {printed.strip()[-300:]}") from error
    if not checks:
        raise ToolchainError("kube-bench has run no check.")
    return checks


def show(found: Mapping[str, Sequence[Check]]) -> None:
    """Print how many checks of each machine ended how, and those that failed."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("machine", *_STATES):
        table.add_column(column)
    for machine, checks in found.items():
        table.add_row(machine, *(str(sum(each.state == state for each in checks)) for state in _STATES))
    console.print(table)
    for machine, checks in found.items():
        for each in checks:
            if each.state == "FAIL":
                reason = f": {each.reason}" if each.reason else ""
                console.print(f"FAIL {machine} {each.number} {each.text}{reason}", markup=False)


def _data(checkout: str) -> Path:
    if not checkout:
        raise ToolchainError(f"No checkout was given: give a checkout of kube-bench that has cfg/{BENCHMARK}.")
    directory = Path(checkout) / "cfg"
    names = ("config.yaml", *(f"{BENCHMARK}/{name}.yaml" for name in (*_TARGETS, "config")))
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise ToolchainError(
            f"{directory} lacks {', '.join(missing)}. Name a checkout of kube-bench that has cfg/{BENCHMARK}."
        )
    return directory


def _architecture(cluster: Cluster, machine: LiveMachine) -> str:
    try:
        done = cluster.ssh(machine, "uname -m", seconds=20)
    except subprocess.TimeoutExpired as late:
        raise ToolchainError(f"{machine.name} does not answer within {late.timeout:.0f} s.") from late
    if done.returncode != 0:
        raise ToolchainError(f"{machine.name} does not answer: {done.stderr.strip()}")
    said = done.stdout.strip()
    if said not in _ARCHITECTURES:
        raise ToolchainError(f"{machine.name} is {said}: kube-bench is built for {' and '.join(_ARCHITECTURES)}.")
    return _ARCHITECTURES[said]


def _program(arch: str) -> Path:
    """kube-bench, built if it is not in the cache."""
    home = paths.cache() / "kube-bench" / _PROGRAMS.recipe() / arch
    note = "Building kube-bench from its Go module takes about 2 minutes on 2 cores."
    with Report() as report:
        return gomodule.have(report, _PROGRAMS, home, title="kube-bench", arch=arch, note=note)


def _run(cluster: Cluster, machine: LiveMachine, packed: bytes) -> list[Check]:
    command = [*access.ssh_command(cluster.stack), machine.name, machine.as_root(script(targets(cluster, machine)))]
    seconds = cluster.allowed(_SECONDS)
    try:
        done = subprocess.run(command, input=packed, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as late:
        raise ToolchainError(f"kube-bench on {machine.name} has not ended within {seconds:.0f} s.") from late
    printed = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip() or printed.strip()
        raise ToolchainError(f"kube-bench on {machine.name} ended with status {done.returncode}: {why[-500:]}")
    return parse(printed)
