"""The end of the lab: a `destroy` that was killed at a random moment is finished by the next one."""

from functools import partial

from config import lab as config
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.kills import Killer, check_gone
from lab.session import Show
from labs.ha.conftest import STACK


def test_a_killed_destroy_is_finished_by_the_next(
    cluster: Cluster, killer: Killer, settings: config.Lab, show: Show
) -> None:
    """What it would catch: containers, networks or files that no run removes any more."""
    killer.kill_and_finish("destroy", "destroy", partial(toolchain, "up", stack=STACK), stack=STACK, show=show)
    check_gone(settings)
