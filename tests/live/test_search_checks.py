"""The order of the versions, and what a watch must tell."""

from pathlib import Path

import pytest
from histories import create, delete, event, get, update

from live.search.checks import as_watched, in_order_of_versions
from live.search.history import Event, Operation, Outcome, acknowledged, read, write

DONE = [
    create("a", 5, at=(1, 2)),
    update("b", 7, of=("a", 5), at=(3, 4)),
    delete(at=(5, 6)),
    create("c", at=(7, 8), outcome=Outcome.UNKNOWN),
    create("d", at=(9, 10), outcome=Outcome.CONFLICT),
]
SEEN = [event("ADDED", "a", 5), event("MODIFIED", "b", 7), event("DELETED", "b", 8), event("ADDED", "c", 9)]


def test_versions_in_the_order_of_the_writes() -> None:
    assert in_order_of_versions([create("a", 5, at=(1, 4)), create("b", 4, at=(2, 3), key="other")]) == []


def test_a_later_write_with_a_lower_version() -> None:
    """Of another object: the history of each alone is linearizable."""
    (said,) = in_order_of_versions([create("a", 5, at=(1, 2)), create("b", 4, at=(3, 4), key="other")])
    assert said == (
        "the create of other to 'b' has version 4, lower than 5 of the create of object to 'a', "
        "which was acknowledged before"
    )


def test_two_writes_with_one_version() -> None:
    (said,) = in_order_of_versions([create("a", 5, at=(1, 4)), create("b", 5, at=(1, 4), key="other")])
    assert said == "version 5 was given to the create of object to 'a' and to the create of other to 'b'"


def test_a_watch_that_tells_all() -> None:
    assert as_watched(DONE, SEEN) == []
    # The create without an answer may never have taken effect.
    assert as_watched(DONE, SEEN[:3]) == []


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([SEEN[0], SEEN[2]], "does not report the update of object to 'b', which was acknowledged with version 7"),
        ([SEEN[0], SEEN[0], *SEEN[1:]], "reports version 5 (object) after 5 (object)"),
        ([SEEN[0], SEEN[2], SEEN[1]], "reports version 7 (object) after 8 (object)"),
        ([*SEEN[:2], event("ADDED", "c", 9)], "says ADDED of object at version 9, which is there already"),
        ([*SEEN[:3], event("MODIFIED", "c", 9)], "says MODIFIED of object at version 9, which is not there"),
        ([*SEEN[:3], event("ADDED", "z", 9)], "says ADDED of object to 'z', which no client wrote"),
        ([*SEEN[:3], event("ADDED", "d", 9)], "reports the create of object to 'd', whose outcome was conflict"),
        ([SEEN[0], event("MODIFIED", "b", 6), SEEN[2]], "has version 6 of the update of object to 'b'"),
        (SEEN[:2], "reports 0 deletions of object; 1 were acknowledged, 1 are possible"),
        ([*SEEN, event("DELETED", "c", 10)], "reports 2 deletions of object; 1 were acknowledged, 1 are possible"),
    ],
)
def test_a_watch_that_does_not(events: list[Event], said: str) -> None:
    assert any(said in each for each in as_watched(DONE, events)), as_watched(DONE, events)


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    operations: list[Operation] = [*DONE, get("a", 5, at=(11, 12))]
    write(tmp_path / "history.jsonl", operations, SEEN)
    assert read(tmp_path / "history.jsonl") == (operations, SEEN)


def test_only_writes_with_an_answer_are_acknowledged() -> None:
    assert acknowledged([*DONE, get("a", 5, at=(11, 12))]) == 3
