"""`./hardway trace pod` and `trace packet` in the lab `kubeadm-test`."""

import pytest

from config import lab as config
from lab.cluster import Cluster
from lab.traces import check_every_stage, check_packet

pytestmark = pytest.mark.long


def test_every_stage_of_a_pod_has_evidence(cluster: Cluster, settings: config.Lab) -> None:
    """The control plane is pods: their logs, their files and their certificates are elsewhere."""
    check_every_stage(cluster, settings)


def test_a_packet_is_followed(cluster: Cluster, settings: config.Lab) -> None:
    found = check_packet(cluster, settings)
    assert any(hop["interface"] == "cni0" for hop in found["hops"]), found
