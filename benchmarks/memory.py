"""The memory and the processor time of a lab's containers, by their cgroups."""

import subprocess
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def working_set(lab: str) -> float:
    """The working set of all containers of a lab together, in MiB.

    It is what their cgroups are charged with (processes, kernel memory, files in memory) without the files that were
    not used lately, which the kernel drops when it wants: the kubelet's and cAdvisor's measure.

    Args:
        lab: its name, as its containers are labelled.
    """
    return sum(map(_charged, groups(lab))) / 2**20


def processor_seconds(lab: str) -> float:
    """The time of processors that all containers of a lab have taken together since they were started."""
    return sum(map(_processor_seconds, groups(lab)))


def groups(lab: str) -> list[str]:
    """The cgroups of a lab's running containers, relative to the root of their hierarchy."""
    listing = ["podman", "ps", "--quiet", "--no-trunc", "--filter", f"label=hardway.lab={lab}"]
    containers = subprocess.run(listing, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    if not containers:
        return []
    inspect = ["podman", "inspect", "--format", "{{.State.CgroupPath}}", *containers]
    found = subprocess.run(inspect, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    return [group.lstrip("/") for group in found]


def _charged(group: str) -> int:
    first, second = _CGROUPS / "memory" / group, _CGROUPS / group
    if first.exists():
        usage, inactive = first / "memory.usage_in_bytes", _stat(first, "total_inactive_file")
    else:
        usage, inactive = second / "memory.current", _stat(second, "inactive_file")
    return int(usage.read_text()) - inactive


def _processor_seconds(group: str) -> float:
    first = _CGROUPS / "cpuacct" / group / "cpuacct.usage"
    if first.exists():
        return int(first.read_text()) / 1e9
    lines = (_CGROUPS / group / "cpu.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / 1e6


def _stat(group: Path, name: str) -> int:
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return next(int(value) for key, value in lines if key == name)
