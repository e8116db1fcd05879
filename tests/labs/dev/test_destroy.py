"""Destroy removes everything that was created, also if it was interrupted."""

from collections.abc import Callable

import pytest

from config import lab as config
from lab import footprint
from lab.cluster import Cluster
from lab.commands import Started, resources, toolchain
from lab.polling import eventually


def test_destroy_survives_a_kill(cluster: Cluster) -> None:
    """A destroy that cannot be finished because half of the machines is gone already, or an `up` by a state that still
    has them."""
    destroy = Started("destroy")
    destroy.says("local:Command machines-.* deleting")
    destroy.kill_everything()
    assert destroy.wait().code != 0
    for command in ("up", "preview", "status"):
        refused = toolchain(command)
        assert refused.code != 0
        assert "was killed: the state still has what it has removed" in refused.output, refused.output
    again = toolchain("destroy")
    assert again.code == 0, again.output
    assert resources() == []


@pytest.mark.usefixtures("cluster")
def test_nothing_is_left(settings: config.Lab, orphans_before: set[str], show: Callable[[str], None]) -> None:
    """A container, volume, network, route, unit, process or key of the lab that outlives it."""
    left = footprint.of_lab(settings)
    left["volumes without a container"] = sorted(footprint.orphans() - orphans_before)
    show("\nleft on the host by the lab `test`:\n")
    for kind, found in left.items():
        show(f"  {kind:28} {', '.join(found) or 'none'}\n")
    eventually(
        "a host without any trace of the lab",
        lambda: not any(footprint.of_lab(settings).values()) and footprint.orphans() <= orphans_before,
        seconds=30,
        report=lambda: str(footprint.of_lab(settings)),
    )
