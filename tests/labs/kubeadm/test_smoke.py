"""What people do with a cluster works in the same way on one that kubeadm made: the tests of tests/labs/dev."""

from labs.dev.test_access import test_copy_there_and_back, test_exec_with_input_and_status, test_port_forward
from labs.dev.test_networking import (
    test_a_host_port_answers_from_everywhere_with_the_pod_of_that_worker,
    test_a_name_outside_the_cluster_is_answered_at_once,
    test_a_node_port_answers_on_every_worker_from_everywhere,
    test_a_pod_reaches_itself_through_its_service,
    test_a_pods_address_is_of_its_workers_range,
    test_machines_and_pulumi_host_reach_pods,
    test_packets_of_pods_leave_the_lab_with_the_workers_address,
    test_pods_find_a_service_by_name,
    test_pods_inherit_no_search_domain_of_their_machine,
    test_pods_reach_a_service_by_its_address_and_see_all_its_pods,
    test_pods_reach_each_other_by_address_across_workers,
    test_the_api_server_reaches_pods_and_services,
)

__all__ = [
    "test_a_host_port_answers_from_everywhere_with_the_pod_of_that_worker",
    "test_a_name_outside_the_cluster_is_answered_at_once",
    "test_a_node_port_answers_on_every_worker_from_everywhere",
    "test_a_pod_reaches_itself_through_its_service",
    "test_a_pods_address_is_of_its_workers_range",
    "test_copy_there_and_back",
    "test_exec_with_input_and_status",
    "test_machines_and_pulumi_host_reach_pods",
    "test_packets_of_pods_leave_the_lab_with_the_workers_address",
    "test_pods_find_a_service_by_name",
    "test_pods_inherit_no_search_domain_of_their_machine",
    "test_pods_reach_a_service_by_its_address_and_see_all_its_pods",
    "test_pods_reach_each_other_by_address_across_workers",
    "test_port_forward",
    "test_the_api_server_reaches_pods_and_services",
]
