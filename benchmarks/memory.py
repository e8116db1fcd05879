"""The memory of a lab's containers."""

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
    listing = ["podman", "ps", "--quiet", "--no-trunc", "--filter", f"label=hardway.lab={lab}"]
    containers = subprocess.run(listing, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    inspect = ["podman", "inspect", "--format", "{{.State.CgroupPath}}", *containers]
    groups = subprocess.run(inspect, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    return sum(_charged(group.lstrip("/")) for group in groups) / 2**20


def _charged(group: str) -> int:
    first, second = _CGROUPS / "memory" / group, _CGROUPS / group
    if first.exists():
        usage, inactive = first / "memory.usage_in_bytes", _stat(first, "total_inactive_file")
    else:
        usage, inactive = second / "memory.current", _stat(second, "inactive_file")
    return int(usage.read_text()) - inactive


def _stat(group: Path, name: str) -> int:
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return next(int(value) for key, value in lines if key == name)
