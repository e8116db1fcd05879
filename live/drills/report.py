"""What the drills measured: a table for people, JSON for programs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from live.drills.run import Outcome


def table(outcomes: Sequence[Outcome]) -> Table:
    """One block for each drill: its numbers beside their bars, then what was written and lost."""
    shown = Table(title="Seconds, and the limits", title_justify="left")
    for heading in ("drill", "hit", "measured"):
        shown.add_column(heading)
    for heading in ("measured", "limit"):
        shown.add_column(heading, justify="right")
    shown.add_column("met")
    for outcome in outcomes:
        rows = _rows(outcome)
        for number, row in enumerate(rows):
            first = (outcome.name, outcome.hit) if number == 0 else ("", "")
            shown.add_row(*first, *row, end_section=number == len(rows) - 1)
    return shown


def document(
    stack: str, outcomes: Sequence[Outcome], lacking: Mapping[str, str], *, load_before: Sequence[float]
) -> dict[str, Any]:
    """All of it, as Python data for JSON."""
    return {
        "stack": stack,
        "passed": passed(outcomes),
        "drills": [
            {
                **asdict(outcome),
                "results": [{**asdict(result), "met": result.met} for result in outcome.results],
                "passed": outcome.passed,
            }
            for outcome in outcomes
        ],
        "not_applicable": dict(lacking),
        "cores": os.cpu_count(),
        "load_before": list(load_before),
        "load_after": list(os.getloadavg()),
    }


def passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether there was a drill, and all of them passed."""
    return bool(outcomes) and all(outcome.passed for outcome in outcomes)


def _rows(outcome: Outcome) -> list[tuple[str, str, str, str]]:
    rows = [(each.what, _seconds(each.seconds), _seconds(each.bar, ""), _met(each.met)) for each in outcome.results]
    for writer, count in outcome.acknowledged.items():
        lost = len(outcome.lost[writer])
        rows.append((f"{writer}: acknowledged, lost", f"{count}, {lost}", "0 lost", _met(lost == 0)))
    for probe, counted in outcome.errors.items():
        if counted:
            rows.append((f"{probe}: failed of all tries", f"{sum(counted.values())}/{outcome.tries[probe]}", "", ""))
    rows.append(("healthy again after the repair in", _seconds(outcome.well_again), "", ""))
    if outcome.failure:
        rows.append((outcome.failure, "", "", _met(False)))
    return rows


def _seconds(value: float | None, none: str = "never") -> str:
    if value is None:
        return none
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _met(met: bool | None) -> str:
    return {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[met]
