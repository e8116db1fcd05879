"""The page with the figures of scale, and its plot, from figures as `scale` and `bench --workers` write them."""

import re
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest

from lab import plot, scale_page
from lab.plot import Chart, Line

_COMPONENTS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")
# Of sans-serif fonts; no character of the names used is much wider.
_WIDTH_OF_CHARACTER = 0.62


def size(nodes: int, factor: float, **others: Any) -> dict[str, Any]:
    """What `./hardway scale` writes for one number of Nodes."""
    kinds = ("get", "list 500 pods", "list nodes", "write", "all gets")
    return {
        "nodes": nodes,
        "pods": 5 * nodes,
        "nodes_ready": 1.26,
        "pods_run": 2.0,
        "requests": {kind: {"count": 1200, "median": 1.26 * factor, "p99": 9.96 * factor} for kind in kinds},
        "memory": dict.fromkeys(_COMPONENTS, 100.4 * factor),
        "database": 4.25,
        "load": 0.5,
        "commands": {"status": 0.75},
        "failover": {"stop-leader: API writes again in": 2.25},
        "trouble": [],
        **others,
    }


SCALE = {
    "date": "2026-11-30",
    "kubernetes": "1.36.4",
    "controllers": 3,
    "workers": 3,
    "cores": 2,
    "seconds": 60,
    "load_before": [0.25, 1, 2],
    "load_after": [3, 2, 1],
    "sizes": [
        size(0, 1),
        size(
            1000,
            8,
            commands={},
            failover={"kill-kube-apiserver: serves again in": None, "stop-leader: API writes again in": 4},
            trouble=["`hardway status` failed:\nlate | late"],
        ),
    ],
}


def worker_row(what: str, workers: int, seconds: float, **others: Any) -> dict[str, Any]:
    """What `./hardway bench --workers` writes for one command."""
    figures = {"program": seconds / 2, "machines": seconds, "memory": 100.0 * workers, "load": 0.5}
    return {"what": what, "workers": workers, "seconds": seconds, **figures, **others}


BENCH = {
    "date": "2026-11-30",
    "kubernetes": "1.36.4",
    "lab": "dev",
    "cores": 2,
    "load_before": [0, 0, 0],
    "load_after": [1, 1, 1],
    "workers": [
        worker_row("up from nothing", 10, 40),
        worker_row("preview", 10, 3, memory=1100.0),
        worker_row("up with 20 workers more", 30, 20),
        worker_row("destroy", 30, 9, machines=0.0, memory=None),
        worker_row("up from nothing", 30, 80),
    ],
}


def table(name: str) -> list[list[str]]:
    """The cells of a table, without its heading."""
    page = scale_page.filled(f"before\n\n<!-- table: {name} -->\n\nbehind\n", SCALE, BENCH)
    before, *lines, behind = [line for line in page.splitlines() if line]
    assert (before, behind) == ("before", "behind")
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_the_page_has_a_place_for_every_table() -> None:
    """A table that is written nowhere, or a place that no table is for."""
    page = scale_page.TEMPLATE.read_text()
    assert sorted(re.findall(r"<!-- table: (\w+) -->\n", page)) == sorted(scale_page.TABLES)


def test_a_request_has_its_median_and_p99_at_each_number_of_nodes() -> None:
    assert table("requests")[0] == ["get", "1.3 / 10.0", "10 / 80"]


def test_a_command_that_failed_has_no_seconds_and_its_error() -> None:
    cells = {row[0]: row[1:] for row in table("sizes")}
    assert cells["`./hardway status` (s)"] == ["0.8", "-"]
    assert cells["errors"] == ["none", "`hardway status` failed: late \\| late"]
    assert cells["Pods"] == ["0", "5,000"]
    assert cells["all lists, number"] == ["0", "0"], "there were none"


def test_memory_is_in_mib() -> None:
    assert table("memory")[0] == ["kube-apiserver", "100", "803"]


def test_what_never_came_differs_from_what_was_not_measured() -> None:
    rows = {row[1]: row for row in table("failovers")}
    assert rows["serves again in"] == ["`kill-kube-apiserver`", "serves again in", "-", "never", "30"]
    assert rows["API writes again in"][2:4] == ["2.2", "4.0"]


def test_a_worker_costs_the_difference_of_two_labs_or_what_was_added() -> None:
    added, new = table("each_worker")
    assert added == ["added to a lab of 10", "1.00", "yes", "0.50", "1.00", "95"]
    assert new == ["a new lab of 30, and not 10", "2.00", "no", "1.00", "2.00", "100"]


def test_machines_that_are_gone_have_no_figures() -> None:
    assert table("workers")[3][4:] == ["", "", "0.5"]


def texts(picture: str) -> list[ElementTree.Element]:
    """The texts of a picture."""
    return ElementTree.fromstring(picture).findall("{http://www.w3.org/2000/svg}text")


def box(text: ElementTree.Element) -> tuple[float, float, float, float]:
    """About where a text is: left, right, top, bottom."""
    x, y, font = (float(text.attrib[name]) for name in ("x", "y", "font-size"))
    width = _WIDTH_OF_CHARACTER * font * len(text.text or "")
    left = x - {"start": 0, "middle": width / 2, "end": width}[text.attrib["text-anchor"]]
    return left, left + width, y - 0.8 * font, y + 0.2 * font


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def test_no_text_of_the_plot_is_on_another_one_or_outside() -> None:
    """All lines of SCALE end at one point."""
    picture = scale_page.drawn(SCALE)
    root, found = ElementTree.fromstring(picture), texts(picture)
    assert {"simulated Nodes", "get", "list nodes", *_COMPONENTS} <= {text.text for text in found}
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for text in found:
        left, right, top, bottom = box(text)
        assert left >= 0 and right <= width and top >= 0 and bottom <= height, text.text
    for one, other in combinations(found, 2):
        assert not overlap(box(one), box(other)), (one.text, other.text)


@pytest.mark.parametrize(
    ("logarithmic", "ticks", "heights"),
    [
        (False, ["0", "200", "400", "600", "800", "1,000"], [0.25, 1]),
        (True, ["200", "500", "1,000"], [0.139, 1]),
    ],
)
def test_points_are_where_their_values_are_on_the_axes(
    logarithmic: bool, ticks: list[str], heights: list[float]
) -> None:
    line = Line(name="line", points=[(0, 250), (50, 1000)])
    picture = plot.svg([Chart(title="t", x="x", y="y", lines=[line], logarithmic=logarithmic)])
    at_ticks = {
        text.text or "": float(text.attrib["y"]) for text in texts(picture) if text.attrib["text-anchor"] == "end"
    }
    assert list(at_ticks) == ticks
    bottom, top = at_ticks[ticks[0]], at_ticks[ticks[-1]]
    points = ElementTree.fromstring(picture).findall("{http://www.w3.org/2000/svg}circle")
    # A number is a little below its line.
    found = [(bottom - 4 - float(point.attrib["cy"])) / (bottom - top) for point in points]
    assert found == pytest.approx(heights, abs=0.01)


def test_page_and_plot_are_those_of_the_measured_figures() -> None:
    figures = scale_page.measured()
    assert scale_page.PAGE.read_text() == scale_page.filled(scale_page.TEMPLATE.read_text(), *figures)
    assert scale_page.PLOT.read_text() == scale_page.drawn(figures[0])
