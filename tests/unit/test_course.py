"""The course: each chapter of its modules has all six parts, and each exercise a check and a reference solution."""

import re

import pytest
import yaml

from lab import documents, exercises
from lab.commands import CHECKOUT

_LEARN = CHECKOUT / "docs" / "learn"
_MODULES = ("provisioning", "high-availability", "runtime-and-networking", "kubeadm")
_CHAPTERS = [
    pytest.param(module, text, id=f"{module}: {text.splitlines()[0]}")
    for module in _MODULES
    for text in re.split(r"^## ", (_LEARN / f"{module}.md").read_text(), flags=re.M)[1:]
]


@pytest.mark.parametrize(("module", "text"), _CHAPTERS)
def test_every_chapter_has_its_six_parts(module: str, text: str) -> None:
    """A chapter that says what a thing is, and does not let the reader try it."""
    missing = [part for part in ("Why", "Resources", "What fails without it") if f"**{part}.**" not in text]
    before_exercise, _, exercise = text.partition("**Exercise.**")
    change = before_exercise.partition("**Change this.**")[2].partition("**What fails")[0]
    shown = re.findall(r"^```console\n\$ (.*?)^```", before_exercise.replace(change, ""), re.M | re.S)
    if not any(re.search(r"^(?![$>])", block, re.M) for block in shown):
        missing.append("a command with its output")
    preview = re.search(r"^\$ .*(?: preview|--preview).*\n(?!\$|```)", change, re.M)
    if not preview or not ("sed -i" in change or "rotate --preview" in change):
        missing.append("a change, and its preview")
    if not re.search(r"\*Check:\*.*^<!-- exercise: ", exercise, re.M | re.S):
        missing.append("an exercise with a check")
    assert missing == []


@pytest.mark.parametrize("module", _MODULES)
def test_every_exercise_has_a_solution_and_a_wrong_answer(module: str) -> None:
    """A check that no test runs, or a solution of an exercise that is gone."""
    own = exercises.solutions()[module]
    assert list(own) == [check.marks["exercise"] for check in exercises.checks(_LEARN / f"{module}.md")]
    for name, parts in own.items():
        assert {"solution", "wrong"} <= set(parts) <= {"solution", "wrong", "undo"}, name
        assert parts["solution"].strip() != parts["wrong"].strip()


def test_solutions_are_of_modules_and_their_checks_run_on_a_lab_of_a_test() -> None:
    assert set(exercises.solutions()) == set(_MODULES)
    tested = [exercise.name for lab in ("dev", "ha", "kubeadm") for exercise in exercises.exercises_of(lab)]
    assert len(tested) == len(set(tested)) == sum(len(own) for own in exercises.solutions().values())
    for lab, folder in (("dev", "dev"), ("ha", "ha"), ("kubeadm", "kubeadm_calico")):
        text = (CHECKOUT / "tests" / "labs" / folder / "test_exercises.py").read_text()
        assert f'exercises_of("{lab}")' in text


def test_a_solution_is_not_on_the_page() -> None:
    """What the learner is to find."""
    for module, own in exercises.solutions().items():
        page = (_LEARN / f"{module}.md").read_text()
        assert [name for name, parts in own.items() if parts["solution"].strip() in page] == []


def test_commands_that_change_nothing_are_no_change_of_a_lab() -> None:
    """`rotate --preview` runs on a page, `rotate` does not."""
    page = CHECKOUT / "docs" / "page.md"
    block = documents.Block(
        page=page, first=1, language="console", lines=["$ ./hardway rotate --preview ssh"], lab="dev"
    )
    assert block.subcommands == []
    changing = documents.Block(page=page, first=1, language="console", lines=["$ ./hardway rotate ssh"], lab="dev")
    assert changing.subcommands == [("", "rotate")]


def test_files_of_solutions_are_yaml_of_text() -> None:
    for file in sorted((CHECKOUT / "lessons" / "exercises").glob("*.yaml")):
        document = yaml.safe_load(file.read_text())
        assert all(isinstance(text, str) for parts in document.values() for text in parts.values()), file.name


def test_reading_times_are_those_of_the_pages() -> None:
    """The number of words, commands and outputs included, at 150 words a minute."""
    page = (_LEARN / "README.md").read_text()
    said = dict(re.findall(r"^\| \d \| \[[^]]*\]\((.*?)\.md\) \|.*?\| (\d+) min \|", page, re.M))
    counted = {module: len((_LEARN / f"{module}.md").read_text().split()) / 150 for module in _MODULES}
    assert set(said) == set(counted)
    assert {module: said[module] for module in said if abs(int(said[module]) - counted[module]) > 1} == {}
