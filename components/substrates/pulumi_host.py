"""What substrates do on the Pulumi host: scripts, always as root; routes to the pods."""

from collections.abc import Sequence

from config.machines import MachineSpec

AS_ROOT = 'as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }'
"""The shell function `as_root COMMAND...`."""


def script(title: str, *lines: str) -> str:
    """A script for the Pulumi host, with `as_root` before what needs it; its first line names it in reports."""
    return "\n".join([f"# {title}", "set -eu", AS_ROOT, *lines])


def host_routes(machines: Sequence[MachineSpec]) -> list[tuple[str, str]]:
    """Pod range and worker's address, for every worker."""
    return [(str(spec.pod_cidr), str(spec.address)) for spec in machines if spec.pod_cidr is not None]
