"""`hardway logs`: the log of a machine, or of one program on it."""

from shlex import quote

from live.cluster import Cluster, LiveMachine
from live.programs import Pod, program


def script(cluster: Cluster, machine: LiveMachine, name: str | None, *, follow: bool, lines: int) -> str:
    """The bash script that prints a log; it fails where the machine has no such program.

    Args:
        cluster: the lab.
        machine: where.
        name: of a systemd unit, or of a program that kubeadm runs as a pod; the whole journal if not given.
        follow: go on with what is logged from now on.
        lines: how many to begin with.
    """
    if name is not None and isinstance(program(cluster, name), Pod):
        files = f"/var/log/pods/kube-system_{name}-*/{name}/*.log"
        return "\n".join(
            [
                f"newest=$(ls -t {files} 2>/dev/null | head -n 1)",
                f'[ -n "$newest" ] || {{ echo "error: {machine.name} has no pod {name}." >&2; exit 1; }}',
                f'exec tail -n {lines} {"-F " if follow else ""}"$newest"',
            ]
        )
    journal = f"exec journalctl --quiet --no-pager --lines={lines}{' --follow' if follow else ''}"
    if name is None:
        return journal
    unit = quote(name)
    return "\n".join(
        [
            f"systemctl cat -- {unit} >/dev/null 2>&1 || {{",
            f"  echo {quote(f'error: {machine.name} has no unit {name}. Its unit files:')}"
            " $(find /etc/systemd/system -maxdepth 1 -type f -name '*.service' -printf '%f\n' | sort) >&2",
            "  exit 1",
            "}",
            f"{journal} --unit={unit}",
        ]
    )
