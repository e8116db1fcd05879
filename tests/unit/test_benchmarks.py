"""The benchmark's arithmetic and its table; nothing is timed here."""

import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks import files, shell_lab
from benchmarks.figures import Bar, ProgramRound, Round, Row, ShellRound, document, rows, spread
from benchmarks.table import number, table
from components.substrates.containers import create_container

SHELL = ShellRound(phases={"machines": 1.0, "dns": 9.0}, memory=500.0)
PROGRAM = ProgramRound(
    up=14.0, second_up=3.0, changes=0, preview=2.0, destroy=4.0, memory=600.0, resources=93, remote_commands=21
)
ROUNDS = [
    Round(shell=SHELL, program=PROGRAM),
    # Another load on the machine: both are twice as slow, and the ratio is what it was.
    Round(shell=replace(SHELL, phases={"machines": 2.0, "dns": 18.0}), program=replace(PROGRAM, up=28.0)),
    Round(shell=SHELL, program=replace(PROGRAM, up=17.0, memory=700.0)),
]


def row(what: str, rounds: list[Round]) -> Row:
    """The one row of this figure."""
    (found,) = (each for each in rows(rounds) if each.what.strip() == what)
    return found


def shown(rounds: list[Round]) -> dict[str, list[str]]:
    """The table as people see it: first cell -> the others."""
    console = Console(width=120)
    with console.capture() as printed:
        console.print(table(rows(rounds), title="title"))
    lines = [line.split("│")[1:-1] for line in printed.get().splitlines() if line.startswith("│")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def test_a_median_stands_between_the_least_and_the_most() -> None:
    three = spread([3.0, 1.0, 8.0])
    assert (three.median, three.least, three.most) == (3.0, 1.0, 8.0)
    assert spread([1.0, 2.0]).median == 1.5


def test_the_ratio_is_taken_within_each_round() -> None:
    ratio = row("ratio to plain shell", ROUNDS).program
    assert ratio is not None
    # The medians of both sides would make 17 / 10.
    assert (ratio.median, ratio.least, ratio.most) == (1.4, 1.4, 1.7)


def test_plain_shells_total_is_the_sum_of_its_phases() -> None:
    up = row("up", ROUNDS)
    assert up.shell == spread([10.0, 20.0, 10.0])
    assert up.program == spread([14.0, 28.0, 17.0])


def test_one_change_in_one_round_is_not_hidden_by_the_others() -> None:
    assert row("second up, changes", ROUNDS).met is True
    assert row("second up, changes", [*ROUNDS, replace(ROUNDS[0], program=replace(PROGRAM, changes=2))]).met is False


@pytest.mark.parametrize(
    ("what", "bar"),
    [
        ("ratio to plain shell", Bar(limit=1.5, inclusive=True)),
        ("second up", Bar(limit=10, inclusive=False)),
        ("second up, changes", Bar(limit=0, inclusive=True)),
        ("destroy", Bar(limit=15, inclusive=False)),
        ("memory", Bar(limit=2.5 * 1024, inclusive=False)),
    ],
)
def test_the_bars_are_those_that_were_set(what: str, bar: Bar) -> None:
    assert row(what, ROUNDS).bar == bar


def test_at_most_includes_the_limit_and_less_than_does_not() -> None:
    assert Bar(limit=1.5, inclusive=True).met_by(1.5)
    assert not Bar(limit=1.5, inclusive=True).met_by(1.51)
    assert not Bar(limit=10, inclusive=False).met_by(10)
    assert Bar(limit=10, inclusive=False).met_by(9.99)


def test_the_table_has_medians_spreads_bars_and_whether_they_are_reached() -> None:
    cells = shown(ROUNDS)
    assert cells["machines (s)"] == ["1 (1-2)", "", "", ""]
    assert cells["up (s)"] == ["10 (10-20)", "17 (14-28)", "", ""]
    assert cells["ratio to plain shell"] == ["", "1.40 (1.40-1.70)", "<= 1.50", "yes"]
    assert cells["resources"] == ["", "93", "", ""]
    slow = Round(shell=SHELL, program=replace(PROGRAM, up=16.0))
    assert shown([slow])["ratio to plain shell"] == ["", "1.60", "<= 1.50", "no"]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (2.876, "2.88"), (18.163, "18.2"), (564.44, "564"), (20.0, "20")]
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_the_document_holds_every_round_and_every_row_as_json() -> None:
    read = json.loads(json.dumps(document(ROUNDS)))
    assert [each["ratio"] for each in read["rounds"]] == [1.4, 1.4, 1.7]
    assert read["rounds"][0]["shell"]["phases"] == {"machines": 1.0, "dns": 9.0}
    (ratio,) = (each for each in read["rows"] if each["what"] == "ratio to plain shell")
    assert (ratio["program"]["median"], ratio["bar"]["limit"], ratio["met"]) == (1.4, 1.5, True)


def test_plain_shell_makes_its_machines_with_the_programs_own_flags() -> None:
    lab = files.lab()
    flags = set(re.findall(r"(?<= )--[a-z]+=\S+", create_container(lab, shell_lab.PREFIX, lab.machines[0])))
    own = {f"--{name}" for name in ("name", "hostname", "network", "ip", "volume")}
    script = shell_lab.SCRIPT.read_text()
    assert len(flags) > 10
    assert [flag for flag in flags if flag.partition("=")[0] not in own and flag not in script] == []
    assert "--privileged" in script
    assert "--volume=/var/lib/containerd" in script
