"""`./hardway trace pod` and `trace packet` in the lab `ha-test`."""

import pytest

from config import lab as config
from lab.cluster import Cluster
from lab.traces import check_every_stage, check_packet

pytestmark = pytest.mark.long


def test_every_stage_of_a_pod_has_evidence(cluster: Cluster, settings: config.Lab) -> None:
    """The audit entry is on one of three controllers; another may have the scheduler that leads."""
    check_every_stage(cluster, settings)


def test_a_packet_is_followed(cluster: Cluster, settings: config.Lab) -> None:
    found = check_packet(cluster, settings)
    assert any(hop["interface"] == "cni0" for hop in found["hops"]), found
