"""docs/scorecard.md: its tables say what the result files in docs/scorecard say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

_DOCS = Path(__file__).parents[2] / "docs"
_PAGE = (_DOCS / "scorecard.md").read_text()
_LABS = {file.stem: json.loads(file.read_text()) for file in sorted((_DOCS / "scorecard").glob("*.json"))}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its own two lines."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", _PAGE, re.M | re.S)
    assert section is not None, heading
    lines = re.findall(r"^\| (.*) \|$", section[1], re.M)
    return [line.split(" | ") for line in lines[1:]]


def counts(group: dict[str, Any]) -> list[int]:
    """Tests, passed, failed, without a result."""
    failed, not_run = len(group["failed"]), len(group["not_run"])
    return [group["tests"], group["tests"] - failed - not_run, failed, not_run]


def sums(lab: dict[str, Any]) -> list[int]:
    """The counts of all groups together."""
    return [sum(column) for column in zip(*map(counts, lab["groups"]), strict=True)]


def without_pass(lab: dict[str, Any]) -> set[str]:
    """The tests that failed or have no result; of a group without any result, its name."""
    found = set()
    for group in lab["groups"]:
        if len(group["not_run"]) == group["tests"]:
            found.add(f"all of {group['group']}")
        else:
            found |= {each["name"] for each in group["failed"]} | set(group["not_run"])
    return found


def test_each_bootstrap_method_has_a_result_file_of_its_name() -> None:
    assert {name: lab["bootstrap"] for name, lab in _LABS.items()} == {"hard-way": "hard-way", "kubeadm": "kubeadm"}


def test_labs_have_the_same_tests() -> None:
    hard_way, *others = ([(group["group"], group["tests"]) for group in lab["groups"]] for lab in _LABS.values())
    assert all(other == hard_way for other in others)


def test_the_first_table_has_the_sums_of_each_file() -> None:
    expected = [[f"[{name}](scorecard/{name}.json)", *map(str, sums(lab))] for name, lab in _LABS.items()]
    assert rows("Results") == expected


@pytest.mark.parametrize("name", _LABS)
def test_the_table_of_a_lab_has_the_numbers_of_its_file(name: str) -> None:
    expected = [[group["group"], *map(str, counts(group))] for group in _LABS[name]["groups"]]
    assert rows(name) == [*expected, ["**all**", *(f"**{number}**" for number in sums(_LABS[name]))]]


@pytest.mark.parametrize("name", _LABS)
def test_the_page_has_the_versions_of_the_file(name: str) -> None:
    lab = _LABS[name]
    section = dict(rows("Versions"))
    assert section["kubernetes"] == lab["kubernetes"]
    assert lab["versions"].items() <= section.items()


@pytest.mark.parametrize("name", _LABS)
def test_each_test_that_did_not_pass_has_its_reason_and_no_other_test_has_one(name: str) -> None:
    reasons = {cells[0].strip("`"): cells[1] for cells in rows(f"{name}: tests that did not pass")}
    assert set(reasons) == without_pass(_LABS[name])
    assert all(reasons.values())
