"""What commands that run pods of their own have in common: their images, and kubectl whose failure is an error."""

from collections.abc import Sequence

from config.versions import Image, pins
from live.cluster import Cluster, LiveMachine
from toolchain.errors import ToolchainError
from toolchain.versions import architecture

_IMPORT_SECONDS = 120


def import_images(cluster: Cluster, machine: LiveMachine, names: Sequence[str] = ("agnhost",), *, of: str) -> None:
    """Have images on a machine: from its mirror if that has the archive, as no registry may be reached. They stay.

    Args:
        cluster: the lab.
        machine: where.
        names: of the images, in versions.yaml.
        of: whose images they are, for the error: "the drills".

    Raises:
        ToolchainError: one cannot be imported.
    """
    done = cluster.ssh(
        machine, " && ".join(_import(pins().images[name]) for name in names), seconds=_IMPORT_SECONDS * len(names)
    )
    if done.returncode != 0:
        raise ToolchainError(f"The images of {of} cannot be imported on {machine.name}: {done.stderr.strip()}")


def _import(image: Image) -> str:
    archive = f"/opt/mirror/{image.archive_path(architecture())}"
    return (
        f'{{ [ -n "$(ctr -n k8s.io images ls -q name=={image.reference})" ] || [ ! -e {archive} ] || '
        f"ctr -n k8s.io images import {archive} >/dev/null; }}"
    )


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
