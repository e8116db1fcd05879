"""kubeadm's external CA mode with Calico and three controllers: the tests of tests/labs/kubeadm.

They run in the order of the import, which is that of their names: the lab is destroyed by the last one.
"""

import pytest

from labs.kubeadm.test_external import (
    external,
    test_a_second_up_of_it_changes_nothing,
    test_no_machine_has_the_key_of_a_ca,
    test_rotation_under_load_loses_nothing_and_old_keys_are_refused,
    test_the_key_of_secrets_that_there_is_not_is_refused,
    test_up_renews_what_kubeadm_cannot_renew,
    test_when_it_is_destroyed_nothing_is_left,
)

__all__ = [
    "external",
    "test_a_second_up_of_it_changes_nothing",
    "test_no_machine_has_the_key_of_a_ca",
    "test_rotation_under_load_loses_nothing_and_old_keys_are_refused",
    "test_the_key_of_secrets_that_there_is_not_is_refused",
    "test_up_renews_what_kubeadm_cannot_renew",
    "test_when_it_is_destroyed_nothing_is_left",
]

pytestmark = pytest.mark.long
