"""What the pod network `calico` may be told, below `lab.calico`.

Source: https://docs.tigera.io/calico/latest/reference/resources/ippool
"""

from typing import Literal

from config.values import Settings


class CalicoSettings(Settings):
    """Where Calico keeps what it knows, and how packets travel between workers."""

    datastore: Literal["kubernetes", "etcd"] = "kubernetes"
    """The Kubernetes API, or the cluster's etcd, with a client certificate of its own."""
    encapsulation: Literal["vxlan", "none"] = "vxlan"
    """`none`: as they are, by the lab's own routes."""


def kernel_modules(settings: CalicoSettings) -> tuple[str, ...]:
    """What its workers' kernel needs beyond every lab's."""
    return ("ip_set", *(("vxlan",) if settings.encapsulation == "vxlan" else ()))
