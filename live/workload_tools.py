"""What commands that run pods of their own have in common: their image, and kubectl whose failure is an error."""

from config.versions import pins
from live.cluster import Cluster, LiveMachine
from toolchain.errors import ToolchainError
from toolchain.versions import architecture


def import_image(cluster: Cluster, machine: LiveMachine, *, of: str, name: str = "agnhost") -> None:
    """Have an image on a machine: from its mirror if that has the archive, as no registry may be reached. It stays.

    Args:
        cluster: the lab.
        machine: where.
        of: whose image it is, for the error: "the drills".
        name: of the image, in versions.yaml.

    Raises:
        ToolchainError: it cannot be imported.
    """
    image = pins().images[name]
    archive = f"/opt/mirror/{image.archive_path(architecture())}"
    done = cluster.ssh(
        machine,
        f'[ -n "$(ctr -n k8s.io images ls -q name=={image.reference})" ] || [ ! -e {archive} ] || '
        f"ctr -n k8s.io images import {archive} >/dev/null",
        seconds=120,
    )
    if done.returncode != 0:
        raise ToolchainError(f"The image of {of} cannot be imported on {machine.name}: {done.stderr.strip()}")


def kubectl(cluster: Cluster, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
    """What kubectl prints.

    Args:
        cluster: the lab.
        arguments: of kubectl.
        stdin: what it reads.
        seconds: how long it may take, before the lab's `timeout_factor`.

    Raises:
        ToolchainError: it fails.
    """
    done = cluster.kubectl(*arguments, stdin=stdin, seconds=seconds)
    if done.returncode != 0:
        raise ToolchainError(f"kubectl {' '.join(arguments[:3])} failed: {done.stderr.strip()}")
    return done.stdout
