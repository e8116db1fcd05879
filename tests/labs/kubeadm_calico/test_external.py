"""kubeadm's external CA mode with Calico and three controllers: the tests of tests/labs/kubeadm."""

import pytest

from labs.kubeadm.test_external import (
    external,
    test_a_second_up_of_it_changes_nothing,
    test_destroy_leaves_nothing_of_it,
    test_no_machine_has_the_key_of_a_ca,
    test_the_keys_that_the_stack_has_are_rotated,
    test_up_renews_what_kubeadm_cannot_renew,
)

__all__ = [
    "external",
    "test_a_second_up_of_it_changes_nothing",
    "test_destroy_leaves_nothing_of_it",
    "test_no_machine_has_the_key_of_a_ca",
    "test_the_keys_that_the_stack_has_are_rotated",
    "test_up_renews_what_kubeadm_cannot_renew",
]

pytestmark = pytest.mark.long
