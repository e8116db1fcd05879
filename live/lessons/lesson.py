"""A lesson: a fault with its symptom, hints, check and solution, read from a YAML file in lessons/.

All files are read and checked before anything is changed, and everything that is wrong is in one report.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolchain import paths
from toolchain.errors import ToolchainError

Place = Literal["controller", "controllers", "etcd", "worker", "other-worker", "workers", "load-balancers"]
"""Where a script runs: the first controller, all of them, all etcd members, the first or the second worker ..."""
Need = Literal["two-workers", "load-balancer", "routes"]
"""What not every lab has; `routes` is the pod network without Calico."""
Level = Literal["easy", "medium", "hard"]
LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")

_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Action(_Strict):
    """A script on machines.

    Args:
        where: which machines.
        run: bash, as root; it must be idempotent. prelude.sh has its variables and functions.
    """

    where: Place
    run: _Text


class Condition(Action):
    """What must hold when the lesson is solved: a script that changes nothing, and ends with status 0 then.

    Args:
        says: the same in words, for the learner; it must not say what is broken.
    """

    says: _Text


class Check(_Strict):
    """How the lesson is checked.

    Args:
        within: seconds in which all conditions must hold, before the lab's `timeout_factor`.
        holds: the conditions.
    """

    within: Annotated[int, Field(ge=1, le=300)]
    holds: Annotated[list[Condition], Field(min_length=1)]


class Fix(_Strict):
    """A way to solve the lesson, or a plausible one that does not solve it.

    Args:
        says: in words.
        actions: as scripts.
    """

    says: _Text
    actions: Annotated[list[Action], Field(min_length=1)]


class Lesson(_Strict):
    """One lesson.

    Args:
        name: of its file. Like the title, the symptom and the hints it must not say what is broken.
        title: in one line.
        level: easy, medium or hard.
        chapter: of docs/chapters.md.
        needs: what the lab must have.
        fault: what breaks the lab.
        broken: the same in words; only `solve` shows it.
        symptom: what the learner sees.
        hints: one more for each `hint`.
        check: what must hold.
        solution: the reference solution.
        wrong: a plausible fix that does not solve the lesson; tests apply it.
        undo: removes what `repair` does not: objects of the API, for the most part.
    """

    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
    title: _Text
    level: Level
    chapter: Annotated[int, Field(ge=1, le=14)]
    needs: list[Need] = []
    fault: Annotated[list[Action], Field(min_length=1)]
    broken: _Text
    symptom: _Text
    hints: Annotated[list[_Text], Field(min_length=2)]
    check: Check
    solution: Fix
    wrong: Fix
    undo: list[Action] = []


def directory() -> Path:
    """Where the files are."""
    return paths.checkout() / "lessons"


def read_all(folder: Path | None = None) -> list[Lesson]:
    """All lessons, from easy to hard.

    Raises:
        ToolchainError: with everything that is wrong in all files.
    """
    lessons, problems = [], []
    for file in sorted((folder or directory()).glob("*.yaml")):
        lesson, wrong = _read(file)
        problems += [f"{file.name}: {each}" for each in wrong]
        if lesson:
            lessons.append(lesson)
    if problems:
        raise ToolchainError(
            "These lessons cannot be read; nothing was changed:\n" + "\n".join(f"  {each}" for each in problems)
        )
    return sorted(lessons, key=lambda each: (LEVELS.index(each.level), each.chapter, each.name))


def find(name: str, lessons: Sequence[Lesson]) -> Lesson:
    """The lesson of a name.

    Raises:
        ToolchainError: there is none.
    """
    for lesson in lessons:
        if lesson.name == name:
            return lesson
    raise ToolchainError(
        f"There is no lesson {name!r}; nothing was changed. `./hardway lesson list` has all of them: "
        f"{', '.join(each.name for each in lessons)}."
    )


def _read(file: Path) -> tuple[Lesson | None, list[str]]:
    try:
        document: Any = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return None, [f"not valid YAML: {' '.join(str(error).split())}"]
    if not isinstance(document, dict):
        return None, ["no map: write the keys title, level, chapter ... (docs/lessons.md)"]
    if "name" in document:
        return None, ["name: the name of the file is the lesson's name; remove this key"]
    try:
        return Lesson.model_validate({**document, "name": file.stem}), []
    except ValidationError as error:
        return None, [
            f"{'.'.join(map(str, detail['loc'])) or 'the file'}: {detail['msg']}" for detail in error.errors()
        ]
