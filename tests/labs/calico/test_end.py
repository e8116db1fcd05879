"""What is done is not done again, and nothing of it is left."""

from config import lab as config
from lab import footprint
from lab.cluster import Cluster
from lab.commands import resources, toolchain
from lab.polling import eventually


def test_a_second_up_changes_nothing(cluster: Cluster) -> None:
    """Pools, CRDs or a plugin that are recreated each time."""
    up = toolchain("up", stack=cluster.settings.name)
    assert up.code == 0, up.output
    assert up.summary.keys() == {"unchanged"}, up.output


def test_destroy_leaves_nothing(cluster: Cluster, settings: config.Lab) -> None:
    destroy = toolchain("destroy", stack=settings.name)
    assert destroy.code == 0, destroy.output
    assert resources(stack=settings.name) == []
    eventually(
        "a host without any trace of the lab",
        lambda: not any(footprint.of_lab(settings).values()),
        seconds=10,
        report=lambda: str(footprint.of_lab(settings)),
    )
