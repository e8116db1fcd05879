"""Histories that a correct store can have, and those that it cannot: the checker tells them apart."""

from pathlib import Path

import pytest
from histories import create, delete, get, update

from live.search.checks import Checker
from live.search.history import Operation, Outcome, read
from toolchain.errors import ToolchainError
from toolchain.from_source import linearizability
from toolchain.progress import Report


@pytest.fixture(scope="module")
def checker() -> Checker:
    with Report() as report:
        return Checker(program=linearizability.ensure(report))


CORRECT: dict[str, list[Operation]] = {
    "one after the other": [
        create("a", 5, at=(1, 2)),
        get("a", 5, at=(3, 4)),
        update("b", 7, of=("a", 5), at=(5, 6)),
        delete(at=(7, 8)),
        get(at=(9, 10)),
        create("c", 12, at=(11, 12)),
    ],
    "a read beside a write has either": [
        create("a", 5, at=(1, 2)),
        update("b", 6, of=("a", 5), at=(3, 9)),
        get("b", 6, at=(4, 5), client=1),
        get("b", 6, at=(6, 7), client=2),
    ],
    "the loser of two creates is told": [
        create("a", 5, at=(1, 4)),
        create("b", at=(1, 4), outcome=Outcome.CONFLICT, client=1),
        get("a", 5, at=(5, 6)),
    ],
    "the loser of two swaps is told": [
        create("a", 5, at=(1, 2)),
        update("b", 6, of=("a", 5), at=(3, 6)),
        update("c", of=("a", 5), at=(3, 6), outcome=Outcome.CONFLICT, client=1),
        get("b", 6, at=(7, 8)),
    ],
    "a write without an answer that took effect": [
        create("a", 5, at=(1, 2)),
        update("b", of=("a", 5), at=(3, 4), outcome=Outcome.UNKNOWN),
        get("a", 5, at=(5, 6), client=1),
        get("b", 9, at=(7, 8), client=1),
        update("c", 11, of=("b", 9), at=(9, 10), client=1),
    ],
    "a write without an answer that never took effect": [
        create("a", 5, at=(1, 2)),
        update("b", of=("a", 5), at=(3, 4), outcome=Outcome.UNKNOWN),
        update("c", 8, of=("a", 5), at=(5, 6), client=1),
        get("c", 8, at=(7, 8), client=1),
    ],
    "a delete without an answer that took effect": [
        create("a", 5, at=(1, 2)),
        delete(at=(3, 4), outcome=Outcome.UNKNOWN),
        get(at=(5, 6), client=1),
        create("b", 9, at=(7, 8), client=1),
    ],
    "a create without an answer conflicts with another": [
        create("a", at=(1, 2), outcome=Outcome.UNKNOWN),
        create("b", at=(3, 4), outcome=Outcome.CONFLICT, client=1),
        update("c", 9, of=("a", 4), at=(5, 6), client=2),
    ],
    "what was refused does not count": [
        create("a", at=(1, 2), outcome=Outcome.REFUSED),
        get(at=(3, 4)),
    ],
}

WRONG: dict[str, list[Operation]] = {
    "lost update": [
        create("a", 5, at=(1, 2)),
        update("b", 6, of=("a", 5), at=(3, 4)),
        update("c", 7, of=("a", 5), at=(5, 6), client=1),
    ],
    "two swaps of one version, side by side": [
        create("a", 5, at=(1, 2)),
        update("b", 6, of=("a", 5), at=(3, 6)),
        update("c", 7, of=("a", 5), at=(3, 6), client=1),
    ],
    "acknowledged update that is gone": [
        create("a", 5, at=(1, 2)),
        update("b", 6, of=("a", 5), at=(3, 4)),
        get("a", 5, at=(5, 6)),
    ],
    "acknowledged create that is gone": [create("a", 5, at=(1, 2)), get(at=(3, 4))],
    "acknowledged delete that is gone": [create("a", 5, at=(1, 2)), delete(at=(3, 4)), get("a", 5, at=(5, 6))],
    "stale read": [
        create("a", 5, at=(1, 2)),
        update("b", 6, of=("a", 5), at=(3, 20)),
        get("b", 6, at=(4, 5), client=1),
        get("a", 5, at=(6, 7), client=2),
    ],
    "duplicate create": [create("a", 5, at=(1, 4)), create("b", 6, at=(2, 5), client=1)],
    "a create that is told of an object that is not there": [
        create("a", at=(1, 2), outcome=Outcome.CONFLICT),
    ],
    "a swap that is told of a conflict with nobody": [
        create("a", 5, at=(1, 2)),
        update("b", of=("a", 5), at=(3, 4), outcome=Outcome.CONFLICT),
    ],
    "a version that comes a second time": [
        create("a", 5, at=(1, 2)),
        delete(at=(3, 4)),
        create("b", 5, at=(5, 6)),
    ],
    "a version that goes back": [
        create("a", 9, at=(1, 2)),
        delete(at=(3, 4)),
        create("b", 5, at=(5, 6)),
    ],
    "a value that nobody wrote": [create("a", 5, at=(1, 2)), get("z", 6, at=(3, 4))],
    "a write without an answer that takes effect twice": [
        create("a", 5, at=(1, 2)),
        update("b", of=("a", 5), at=(3, 4), outcome=Outcome.UNKNOWN),
        get("b", 6, at=(5, 6), client=1),
        update("c", 7, of=("b", 6), at=(7, 8), client=1),
        get("b", 8, at=(9, 10), client=1),
    ],
    "a write without an answer that is undone": [
        create("a", 5, at=(1, 2)),
        update("b", of=("a", 5), at=(3, 4), outcome=Outcome.UNKNOWN),
        get("b", 6, at=(5, 6), client=1),
        get("a", 5, at=(7, 8), client=1),
    ],
}


@pytest.mark.parametrize("history", CORRECT.values(), ids=CORRECT.keys())
def test_what_a_correct_store_can_do_is_accepted(checker: Checker, history: list[Operation]) -> None:
    assert checker.violations(history) == []


@pytest.mark.parametrize("history", WRONG.values(), ids=WRONG.keys())
def test_what_no_correct_store_does_is_refused(checker: Checker, history: list[Operation], tmp_path: Path) -> None:
    assert checker.violations(history, tmp_path) == ["object: its history is not linearizable"]
    assert (tmp_path / "object.html").exists()


def test_the_recorded_history_of_a_member_with_old_data_is_refused(checker: Checker) -> None:
    """As tests/labs/ha/test_search.py recorded it on a lab: one object, up to the first answer that cannot be.

    Reads and conflicts that change nothing of the verdict are left out.
    """
    operations, _ = read(Path(__file__).with_name("recorded") / "old-data.jsonl")
    assert checker.violations(operations) == ["object: its history is not linearizable"]
    assert checker.violations(operations[:-1]) == []


def test_each_object_is_judged(checker: Checker) -> None:
    history = [
        create("a", 5, at=(1, 2), key="good"),
        create("b", 6, at=(1, 2), key="bad"),
        get(at=(3, 4), key="bad"),
    ]
    assert checker.violations(history) == ["bad: its history is not linearizable"]


def test_many_writes_without_an_answer_are_judged_in_time(checker: Checker) -> None:
    """Each may take effect at any time, or never: without a bound the search grows exponentially."""
    history = [create("a", 5, at=(1, 2))]
    history += [
        update(f"u{number}", of=("a", 5), at=(3, 4), outcome=Outcome.UNKNOWN, client=number) for number in range(20)
    ]
    history += [delete(at=(3, 4), outcome=Outcome.UNKNOWN, client=30 + number) for number in range(20)]
    history.append(get("a", 5, at=(5, 6), client=60))
    assert checker.violations(history) == []
    assert checker.violations([*history, get("z", 9, at=(7, 8), client=60)]) == [
        "object: its history is not linearizable"
    ]


def test_a_checker_that_fails_is_no_success(tmp_path: Path) -> None:
    program = tmp_path / "checker"
    program.write_text("#!/bin/sh\necho 'no memory' >&2; exit 1\n")
    program.chmod(0o755)
    with pytest.raises(ToolchainError, match="no memory"):
        Checker(program=program).violations([create("a", 5, at=(1, 2))])


@pytest.mark.parametrize("said", ['{"object": "Unknown"}', '{"other": "Ok"}', "{}"])
def test_what_was_not_judged_is_no_success(tmp_path: Path, said: str) -> None:
    program = tmp_path / "checker"
    program.write_text(f"#!/bin/sh\ncat >/dev/null; echo '{said}'\n")
    program.chmod(0o755)
    checker, history = Checker(program=program), [create("a", 5, at=(1, 2))]
    if "Unknown" in said:
        assert checker.violations(history) == ["object: its history could not be judged within 60 s"]
    else:
        with pytest.raises(ToolchainError, match="checked"):
            checker.violations(history)
