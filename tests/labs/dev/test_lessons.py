"""`./hardway lesson`: a fault and a wrong fix fail the check, the solution passes it, and `reset` leaves nothing."""

import json

import pytest

from config import lab as config
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.lessons import check_three_ways
from lab.session import Show
from live.lessons.lesson import read_all

# One in the API alone, and one on a machine.
_EVERY_RUN = ("forbidden", "services-do-not-change")
_NAMES = [lesson.name for lesson in read_all()]


@pytest.mark.parametrize(
    "name", [name if name in _EVERY_RUN else pytest.param(name, marks=pytest.mark.long) for name in _NAMES]
)
def test_lesson(cluster: Cluster, settings: config.Lab, show: Show, name: str) -> None:
    """A fault without effect; a check that a wrong fix passes; a solution that does not help; leftovers."""
    check_three_ways(settings.name, name, show, thorough=name not in _EVERY_RUN)


@pytest.mark.long
def test_a_killed_start_and_a_killed_reset_are_finished_by_the_next(cluster: Cluster, settings: config.Lab) -> None:
    """A lab that stays broken, or a record that refuses every command."""
    name = settings.name
    started = toolchain("lesson", "start", _EVERY_RUN[1], stack=name)
    assert started.code == 0, started.output
    record = cluster.directory / "lesson.json"
    kept = json.loads(record.read_text())
    # As a `start` leaves it that is killed before its symptom shows.
    record.write_text(json.dumps(kept | {"phase": "starting"}))
    refused = toolchain("lesson", "check", stack=name)
    assert refused.code == 1 and "was interrupted (starting)" in refused.output
    other = toolchain("lesson", "start", _EVERY_RUN[0], stack=name)
    assert other.code == 1 and f"has the lesson {_EVERY_RUN[1]}" in other.output
    assert toolchain("lesson", "start", _EVERY_RUN[1], stack=name).code == 0
    record.write_text(json.dumps(kept | {"phase": "resetting"}))
    again = toolchain("lesson", "start", _EVERY_RUN[0], stack=name)
    assert again.code == 0 and f"Finishing the reset of {_EVERY_RUN[1]} first" in again.output, again.output
    assert toolchain("drill", "kill-kubelet", stack=name).code == 1
    reset = toolchain("lesson", "reset", stack=name)
    assert reset.code == 0 and not record.exists(), reset.output
