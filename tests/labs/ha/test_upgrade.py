"""`upgrade` of a lab that serves: from Kubernetes 1.35.8 to 1.36.4, under load, and killed at random moments.

HARDWAY_KILLS says how many kills (20), HARDWAY_SEED which moments (others every time; the seed is printed).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import upgrades
from lab.cluster import Cluster
from lab.session import Show
from labs.ha.conftest import STACK

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def old_lab(show: Show) -> Iterator[Cluster]:
    """The lab in the old version."""
    with upgrades.lab_in_the_old_version(STACK, show) as lab:
        yield lab


def test_an_upgrade_under_load_loses_nothing(old_lab: Cluster, show: Show, tmp_path: Path) -> None:
    """What it would catch: two API servers that restart at once, a worker that is not drained, a budget overridden."""
    upgrades.check_upgrade_under_load(old_lab, show, tmp_path)


def test_every_upgrade_that_was_killed_is_continued_or_rolled_back(old_lab: Cluster, show: Show) -> None:
    """An upgrade after whose kill the lab needs a hand, runs two versions, or has lost a write."""
    upgrades.KilledUpgrades(old_lab, show, kills=20, seconds=240).check()
