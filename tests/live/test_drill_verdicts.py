"""When drills have passed, and what is said of those that have not."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from live.drills import report
from live.drills.run import Outcome, Result, is_calm
from live.drills.samples import Sample

GOOD = Outcome(
    name="stop-leader",
    hit="controller-1",
    results=[
        Result(what="etcd writes again in", seconds=1.94, bar=3),
        Result(what="API writes again in", seconds=2.5, bar=None),
    ],
    acknowledged={"API writer": 300, "etcd writer": 200},
    lost={"API writer": [], "etcd writer": []},
    tries={"API client": 100},
    errors={"API client": {"timed out": 3}},
    well_again=9.0,
)


def shown(*outcomes: Outcome) -> str:
    out = io.StringIO()
    Console(file=out, width=140).print(report.table(outcomes))
    return out.getvalue()


def test_a_drill_with_its_bars_met_has_passed() -> None:
    assert GOOD.passed
    assert report.passed([GOOD])


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, results=[Result(what="etcd writes again in", seconds=3.1, bar=3)]),
        replace(GOOD, results=[Result(what="new leader in", seconds=None, bar=20)]),
        replace(GOOD, lost={"API writer": ["17"], "etcd writer": []}),
        replace(GOOD, failure="The cluster is not healthy within 90 s"),
    ],
    ids=["missed", "never", "lost", "not healthy"],
)
def test_a_drill_has_not_passed(bad: Outcome) -> None:
    assert not bad.passed
    assert not report.passed([GOOD, bad])
    assert "no" in shown(bad).replace("none", "").split()


def test_no_drill_at_all_is_no_success() -> None:
    assert not report.passed([])


def test_a_bar_is_met_to_the_last() -> None:
    assert Result(what="", seconds=3.0, bar=3).met
    assert Result(what="", seconds=99.0, bar=None).met is None


def test_the_table_has_every_number_beside_its_bar() -> None:
    lines = [line for line in shown(GOOD).splitlines() if "etcd writes again in" in line]
    assert [word for word in lines[0].replace("│", " ").split() if word[0].isdigit() or word == "yes"] == [
        "1.9",
        "3",
        "yes",
    ]
    assert "3/100" in shown(GOOD)
    assert "300, 0" in shown(GOOD)


def test_the_document_has_the_verdicts() -> None:
    document = report.document("ha", [GOOD], {"stop-balancer": "two"}, load_before=[1, 1, 1])
    assert document["passed"] is True
    assert [result["met"] for result in document["drills"][0]["results"]] == [True, None]
    assert document["not_applicable"] == {"stop-balancer": "two"}


def test_calm_is_only_good_answers_for_a_while() -> None:
    good = [Sample(began=end - 0.1, ended=end) for end in (98.5, 99.0, 99.5)]
    assert is_calm(good, began=90, now=100)
    assert not is_calm(good, began=99, now=100)
    assert not is_calm([], began=90, now=100)
    assert not is_calm([*good, Sample(began=98, ended=99.9, error="timed out")], began=90, now=100)
    # Silence is no calm.
    assert not is_calm(good, began=90, now=110)
