"""The exercises of the course on the lab `kubeadm`, here: the check fails at first, and holds after the solution."""

import pytest

from lab.cluster import Cluster
from lab.exercises import Exercise, check_both_ways, exercises_of

pytestmark = pytest.mark.long


@pytest.mark.parametrize("exercise", exercises_of("kubeadm"), ids=lambda exercise: exercise.name)
def test_check_fails_at_first_and_holds_after_the_solution(exercise: Exercise, stack: str, cluster: Cluster) -> None:
    """A check that holds whatever the learner does, or that the reference solution does not meet."""
    check_both_ways(exercise, lab="kubeadm", stack=stack)
