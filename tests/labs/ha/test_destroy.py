"""The end of the lab: a `destroy` that was killed at random moments, several times, is finished by the next one."""

from config import lab as config
from lab.cluster import Cluster
from lab.commands import Started
from lab.kills import Killer, check_gone
from lab.session import Show
from labs.ha.conftest import STACK

_KILLS = 6


def test_killed_destroys_are_finished_by_the_next(
    cluster: Cluster, killer: Killer, settings: config.Lab, show: Show
) -> None:
    """What it would catch: containers, networks or files that no run removes any more; a deletion that fails because
    its thing is gone already, although the state still has it."""
    ended = killer.kill_in_a_row(
        "destroy",
        lambda: Started("destroy", stack=STACK),
        lambda killed: show(f"\nkill of destroy: {killed}\n"),
        most=_KILLS,
        seconds=120,
    )
    assert ended.code == 0, ended.output
    check_gone(settings)
