"""The lab of all tests here comes from an `up` that was killed at a random moment: the next one finishes it."""

from lab.cluster import Cluster
from lab.kills import check_whole


def test_a_killed_up_is_finished_by_the_next(cluster: Cluster) -> None:
    """What it would catch: machines twice or half made, a member that is in the list and nowhere else, stale locks."""
    check_whole(cluster.settings, cluster.up)
