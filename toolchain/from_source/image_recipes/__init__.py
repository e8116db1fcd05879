"""How each container image is made here, for hosts that reach no registry: one module an image, named like it.

A recipe has `make`, which writes the image's layers and describes it, and `programs`: what it is made of besides, if it
holds programs built from a Go module. As upstream's: the entry points, users and files that matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from config.versions import pins, versioned
from toolchain.from_source import image_archive
from toolchain.from_source.gomodule import Programs
from toolchain.from_source.image_recipes import (
    agnhost,
    busybox,
    calico_cni,
    calico_kube_controllers,
    calico_node,
    coredns,
    e2e_busybox,
    etcd,
    glibc_dns_testing,
    kube_proxy,
    nginx,
    nonewprivs,
    pause,
    pets,
    sample_apiserver,
    static_pod,
)
from toolchain.progress import Part

Make = Callable[[Part, str, Path, str], image_archive.Image]
"""(shows the progress, reference, a directory for what it writes, architecture) -> the image."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one image is made.

    Args:
        make: writes its layers.
        code: the file that `make` stands in.
        programs: the programs built for it; None where it has none.
    """

    make: Make
    code: Path
    programs: Callable[[], Programs] | None = None


def _of_each_version() -> dict[str, Recipe]:
    """The images of Kubernetes' own programs, in each version of it."""
    kubernetes, found = pins().products["kubernetes"], {}
    for version in kubernetes.versions:
        programs = partial(static_pod.programs, version)
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
            made = Recipe(
                make=partial(static_pod.make, name, version), code=Path(static_pod.__file__), programs=programs
            )
            found[versioned(name, version, kubernetes.default)] = made
        found[versioned("kube-proxy", version, kubernetes.default)] = Recipe(
            make=partial(kube_proxy.make, version), code=Path(kube_proxy.__file__), programs=programs
        )
    return found


RECIPES = {
    "pause": Recipe(make=pause.make, code=Path(pause.__file__)),
    "coredns": Recipe(make=coredns.make, code=Path(coredns.__file__), programs=coredns.programs),
    **_of_each_version(),
    "etcd": Recipe(make=etcd.make, code=Path(etcd.__file__), programs=etcd.programs),
    "calico-node": Recipe(make=calico_node.make, code=Path(calico_node.__file__), programs=calico_node.programs),
    "calico-cni": Recipe(make=calico_cni.make, code=Path(calico_cni.__file__), programs=calico_cni.programs),
    "calico-kube-controllers": Recipe(
        make=calico_kube_controllers.make,
        code=Path(calico_kube_controllers.__file__),
        programs=calico_kube_controllers.programs,
    ),
    "agnhost": Recipe(make=agnhost.make, code=Path(agnhost.__file__), programs=agnhost.programs),
    "busybox": Recipe(make=busybox.make, code=Path(busybox.__file__)),
    "sample-apiserver": Recipe(
        make=sample_apiserver.make, code=Path(sample_apiserver.__file__), programs=sample_apiserver.programs
    ),
    "e2e-busybox": Recipe(make=e2e_busybox.make, code=Path(e2e_busybox.__file__)),
    "e2e-agnhost-previous": Recipe(make=agnhost.make, code=Path(agnhost.__file__), programs=agnhost.programs),
    "e2e-etcd": Recipe(make=etcd.make, code=Path(etcd.__file__), programs=etcd.programs),
    "nginx": Recipe(make=nginx.make, code=Path(nginx.__file__)),
    "nginx-new": Recipe(make=nginx.make, code=Path(nginx.__file__)),
    "nonewprivs": Recipe(make=nonewprivs.make, code=Path(nonewprivs.__file__), programs=nonewprivs.programs),
    "kitten": Recipe(make=partial(pets.make, "kitten"), code=Path(pets.__file__), programs=pets.programs),
    "nautilus": Recipe(make=partial(pets.make, "nautilus"), code=Path(pets.__file__), programs=pets.programs),
    "glibc-dns-testing": Recipe(make=glibc_dns_testing.make, code=Path(glibc_dns_testing.__file__)),
}
"""Image of versions.yaml -> how it is made."""
