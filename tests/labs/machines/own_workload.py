"""The pods of tests/labs/dev on a user's own hosts, where no mirror is mounted: their images come by the host."""

from collections.abc import Sequence
from dataclasses import dataclass

from config.versions import pins
from lab.workload import Workload
from labs.machines.own_hosts import OwnHost, podman


@dataclass(frozen=True, kw_only=True)
class OwnWorkload(Workload):
    """All of them, on a cluster of such hosts."""

    hosts: Sequence[OwnHost]

    def _import_images(self, worker: str, names: Sequence[str]) -> None:
        container = next(host.container for host in self.hosts if host.name == worker)
        for name in names:
            archive = self.cluster.settings.mirror / pins().images[name].archive_path(self.cluster.settings.arch)
            podman("cp", str(archive), f"{container}:/run/image.tar")
            podman("exec", container, "ctr", "-n", "k8s.io", "images", "import", "/run/image.tar")
            podman("exec", container, "rm", "/run/image.tar")
