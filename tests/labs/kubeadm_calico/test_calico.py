"""Calico does on kubeadm's Nodes, controllers among them, what it does on the workers of the hard way."""

from lab.cluster import Cluster
from labs.calico.test_network import (
    test_api_server_and_pulumi_host_reach_pods,
    test_calico_is_there_for_every_node,
    test_packets_between_workers_are_encapsulated,
    test_pods_find_services_by_name,
)
from labs.calico.test_policies import (
    flows,
    test_allow_dns_opens_names_alone,
    test_default_deny_closes_everything_and_its_end_opens_it,
    test_egress_to_a_range_opens_that_range,
    test_policy_by_label_allows_connections,
)
from labs.dev.test_networking import (
    test_a_pods_address_is_of_its_workers_range,
    test_pods_reach_each_other_by_address_across_workers,
)

__all__ = [
    "flows",
    "test_a_pods_address_is_of_its_workers_range",
    "test_allow_dns_opens_names_alone",
    "test_api_server_and_pulumi_host_reach_pods",
    "test_calico_is_there_for_every_node",
    "test_default_deny_closes_everything_and_its_end_opens_it",
    "test_egress_to_a_range_opens_that_range",
    "test_packets_between_workers_are_encapsulated",
    "test_pods_find_services_by_name",
    "test_pods_reach_each_other_by_address_across_workers",
    "test_policy_by_label_allows_connections",
]


def test_the_controller_is_a_node_of_calicos_with_a_pool_of_its_own(cluster: Cluster) -> None:
    """A controller that is Ready without a network, whose pods nobody finds."""
    controller = cluster.controller
    pools = cluster.ssh(controller.name, "calicoctl get ippools -o wide")
    for machine in cluster.machines:
        if machine.pod_cidr is not None:
            assert str(machine.pod_cidr) in pools
    assert controller.pod_cidr is not None
    assert cluster.ssh(controller.name, "ls /etc/cni/net.d").split() == ["10-calico.conflist"]
