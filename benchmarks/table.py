"""The result as a table, for people."""

from collections.abc import Iterable

from rich.table import Table

from benchmarks.figures import Bar, Row, Spread


def table(rows: Iterable[Row], *, title: str) -> Table:
    """One line for each figure: the median, and behind it the least and the most of several rounds."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("")
    for heading in ("plain shell", "the program", "limit"):
        shown.add_column(heading, justify="right")
    shown.add_column("met")
    for row in rows:
        reached = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.met]
        what = f"{row.what} ({row.unit})" if row.unit else row.what
        shown.add_row(what, _spread(row.shell), _spread(row.program), _bar(row.bar), reached)
    return shown


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.least == spread.most:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.least)}-{number(spread.most)})"


def _bar(bar: Bar | None) -> str:
    return f"{'<=' if bar.inclusive else '<'} {number(bar.limit)}" if bar else ""


def number(value: float) -> str:
    """Three digits, as far as they mean something; whole numbers whole."""
    if value == int(value) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
