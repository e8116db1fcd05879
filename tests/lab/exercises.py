"""The exercises of the course: each has a check on its page, and a solution in lessons/exercises/.

A check is a block with the mark `exercise: NAME`. It holds if its commands print what the page shows.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from lab import documents
from lab.commands import CHECKOUT, settings_file
from lab.documents import Block, Outcome, Session, Translation
from lab.documents_run import sessions

_SOLUTIONS = CHECKOUT / "lessons" / "exercises"
_HOLDS_WITHIN_SECONDS, _STAYS_WRONG_SECONDS, _PAUSE_SECONDS = 90, 3, 2


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One exercise of a module.

    Args:
        check: the block on the page.
        solution: commands for the shell of the page, after which the check holds.
        wrong: a plausible answer, after which it does not hold.
        undo: removes what both have left; idempotent.
    """

    check: Block
    solution: str
    wrong: str
    undo: str

    @property
    def name(self) -> str:
        """Unique in the course."""
        return self.check.marks["exercise"]


def solutions() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Module -> exercise -> `solution`, `wrong` and `undo`."""
    return {file.stem: yaml.safe_load(file.read_text()) for file in sorted(_SOLUTIONS.glob("*.yaml"))}


def checks(page: Path) -> list[Block]:
    """The checks of a page, in its order."""
    return [block for block in documents.blocks(page) if "exercise" in block.marks]


def exercises_of(lab: str) -> list[Exercise]:
    """All exercises whose check is for a lab, in the order of the chapters."""
    found = []
    for module, own in solutions().items():
        for check in checks(CHECKOUT / "docs" / "learn" / f"{module}.md"):
            if check.lab == lab:
                of_name = own[check.marks["exercise"]]
                found.append(Exercise(check=check, **{"undo": "true"} | dict(of_name)))
    return found


def check_both_ways(exercise: Exercise, *, lab: str, stack: str) -> None:
    """The check fails before anything is done and with a wrong answer; with the solution it holds.

    Args:
        exercise: which.
        lab: of its page.
        stack: a running lab of the same shape.
    """
    settings = settings_file(stack)
    before = settings.read_bytes()
    with sessions(lab, on=stack) as (shell_of_reader, translation):

        def run(shell: Session, script: str) -> None:
            code, said = shell.run(translation.command(script), seconds=240)
            assert code == 0, f"{script}\nends with {code}:\n{said}"

        try:
            with shell_of_reader() as shell:
                assert not _holds(exercise, shell, translation), "the check holds before anything is done"
            for script, seconds, expected in (
                (exercise.wrong, _STAYS_WRONG_SECONDS, False),
                (exercise.solution, _HOLDS_WITHIN_SECONDS, True),
            ):
                with shell_of_reader() as shell:
                    try:
                        run(shell, script)
                        outcomes = _outcomes(exercise, shell, translation, seconds=seconds)
                    finally:
                        run(shell, exercise.undo)
                problems = [outcome.problem for outcome in outcomes if outcome.problem]
                assert expected or problems, "the check holds with a wrong answer"
                assert not expected or not problems, "\n\n".join(problems)
            assert settings.read_bytes() == before
        finally:
            settings.write_bytes(before)


def _holds(exercise: Exercise, shell: Session, translation: Translation) -> bool:
    return all(outcome.problem is None for outcome in _once(exercise, shell, translation))


def _outcomes(exercise: Exercise, shell: Session, translation: Translation, *, seconds: float) -> list[Outcome]:
    """The whole check, again until it holds, at most for some seconds."""
    deadline = time.monotonic() + seconds
    while True:
        outcomes = _once(exercise, shell, translation)
        if all(outcome.problem is None for outcome in outcomes) or time.monotonic() > deadline:
            return outcomes
        # Checks restart units: systemd refuses the sixth start within 10 s.
        time.sleep(_PAUSE_SECONDS)


def _once(exercise: Exercise, shell: Session, translation: Translation) -> list[Outcome]:
    numbers = range(len(exercise.check.recorded))
    return [documents.run_command(exercise.check, number, shell, translation) for number in numbers]
