"""What is done is not done again, and nothing of it is left."""

from labs.calico.test_end import test_a_second_up_changes_nothing, test_destroy_leaves_nothing

__all__ = ["test_a_second_up_changes_nothing", "test_destroy_leaves_nothing"]
