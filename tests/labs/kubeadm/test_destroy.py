"""Destroy removes everything that was created."""

from config import lab as config
from lab import footprint
from lab.cluster import Cluster
from lab.commands import resources, toolchain
from lab.polling import eventually
from labs.kubeadm.conftest import STACK


def test_nothing_is_left(cluster: Cluster, settings: config.Lab, orphans_before: set[str]) -> None:
    """A container, volume, network, route, unit, process or key of the lab that outlives it."""
    destroy = toolchain("destroy", stack=STACK)
    assert destroy.code == 0, destroy.output
    assert resources(stack=STACK) == []
    eventually(
        "a host without any trace of the lab",
        lambda: not any(footprint.of_lab(settings).values()) and footprint.orphans() <= orphans_before,
        seconds=30,
        report=lambda: str(footprint.of_lab(settings)),
    )
