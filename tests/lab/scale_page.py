"""docs/scale-figures.md, with tables and the plot docs/scale.svg, from the measured figures.

docs/scale.json is what `./hardway scale --json` wrote, docs/scale-workers.json what `./hardway bench --workers` did.
`PYTHONPATH=.:tests python -m lab.scale_page` writes the page, from scale_page.md, and the plot.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab import plot
from live.drills import catalogue

DOCS = Path(__file__).parents[2] / "docs"
TEMPLATE = Path(__file__).with_suffix(".md")
PAGE, PLOT = DOCS / "scale-figures.md", DOCS / "scale.svg"
SECONDS_FOR_EACH_WORKER = 1.5
"""The project's limit for a worker more, on 2 cores."""
_TABLE = re.compile(r"<!-- table: (\w+) -->\n")
_COMPONENTS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")
# Of all clients, by the API servers' histograms.
_ANSWERED = ("all gets", "all lists", "all writes")
# Those of `scale` itself: each was measured, where the histograms have only buckets.
_PLOTTED = ("get", "write", "list 500 pods", "list nodes")

Rows = list[list[str]]


def conditions(scale: Any, _: Any) -> Rows:
    """When and where the Nodes were simulated."""
    return [
        *_surroundings(scale, f"{scale['controllers']} controllers, {scale['workers']} workers"),
        ["requests were measured for", f"{scale['seconds']} s at each number of Nodes"],
    ]


def requests(scale: Any, _: Any) -> Rows:
    """Milliseconds: p50 and p99."""
    sizes = scale["sizes"]
    kinds = dict.fromkeys(kind for size in sizes for kind in size["requests"])
    return [
        _heading("request", sizes),
        *([kind, *(_latency(size["requests"].get(kind)) for size in sizes)] for kind in kinds),
    ]


def sizes(scale: Any, _: Any) -> Rows:
    """What else was measured at each number of Nodes."""
    found = scale["sizes"]
    commands = dict.fromkeys(command for size in found for command in size["commands"])
    return [
        _heading("measured", found),
        ["Pods", *(f"{size['pods']:,}" for size in found)],
        ["all Nodes Ready after (s)", *(_seconds(size["nodes_ready"]) for size in found)],
        ["then all Pods run after (s)", *(_seconds(size["pods_run"]) for size in found)],
        *([f"{kind}, number", *(_count(size["requests"].get(kind)) for size in found)] for kind in _ANSWERED),
        *([f"`./hardway {name}` (s)", *(_seconds(size["commands"].get(name)) for size in found)] for name in commands),
        ["load before (1 minute)", *(f"{size['load']:.1f}" for size in found)],
        ["errors", *("; ".join(map(_line, size["trouble"])) or "none" for size in found)],
    ]


def memory(scale: Any, _: Any) -> Rows:
    """MiB, on the controller where it is most."""
    found = scale["sizes"]
    return [
        _heading("MiB", found),
        *([name, *(f"{size['memory'][name]:.0f}" for size in found)] for name in _COMPONENTS),
        ["etcd's data", *(f"{size['database']:.1f}" for size in found)],
    ]


def failovers(scale: Any, _: Any) -> Rows:
    """Seconds of the drills' measures, beside their limits."""
    limits = {f"{drill.name}: {measure.what}": measure.bar for drill in catalogue.DRILLS for measure in drill.measures}
    found = scale["sizes"]
    names = dict.fromkeys(name for size in found for name in size["failover"])
    rows = []
    for name in names:
        drill, _, what = name.partition(": ")
        limit = "" if limits[name] is None else f"{limits[name]:g}"
        rows.append([f"`{drill}`", what, *(_failover(size["failover"], name) for size in found), limit])
    # The order of the drills in the catalogue's, whatever was measured at the first size.
    rows.sort(key=lambda row: row[0])
    return [["drill", "seconds", *_heading("", found)[1:], "limit"], *rows]


def worker_conditions(_: Any, bench: Any) -> Rows:
    """When and where the real workers were measured."""
    return _surroundings(bench, f"`{bench['lab']}` with other ranges")


def workers(_: Any, bench: Any) -> Rows:
    """Each command on labs of real workers."""
    return [
        [
            "command",
            "workers",
            "seconds",
            "processor seconds of the program",
            "of the machines",
            "memory of the machines (MiB)",
            "load before",
        ],
        *(
            [
                each["what"],
                str(each["workers"]),
                f"{each['seconds']:.1f}",
                f"{each['program']:.1f}",
                # What machines that are gone have used is not known.
                "" if each["what"] == "destroy" else f"{each['machines']:.1f}",
                "" if each["memory"] is None else f"{each['memory']:,.0f}",
                f"{each['load']:.1f}",
            ]
            for each in bench["workers"]
        ),
    ]


def each_worker(_: Any, bench: Any) -> Rows:
    """What one worker more costs, on average."""
    measured = bench["workers"]
    rows = []
    for before, grown in pairwise(measured):
        if grown["what"].endswith("workers more"):
            # What the command before has cost is not part of it; its memory is.
            earlier = {"workers": before["workers"], "memory": before["memory"]}
            rows.append(_cost(f"added to a lab of {before['workers']}", earlier, grown))
    new = [each for each in measured if each["what"] == "up from nothing"]
    rows += [
        _cost(f"a new lab of {more['workers']}, and not {fewer['workers']}", fewer, more)
        for fewer, more in pairwise(new)
    ]
    return [
        [
            "a worker",
            "seconds",
            f"at most {SECONDS_FOR_EACH_WORKER} s",
            "processor seconds of the program",
            "of the machines",
            "memory (MiB)",
        ],
        *rows,
    ]


def _cost(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    more = after["workers"] - before["workers"]
    seconds, program, machines, memory = (
        (after[key] - before.get(key, 0)) / more for key in ("seconds", "program", "machines", "memory")
    )
    met = "yes" if seconds <= SECONDS_FOR_EACH_WORKER else "no"
    return [what, f"{seconds:.2f}", met, f"{program:.2f}", f"{machines:.2f}", f"{memory:.0f}"]


def drawn(scale: Any) -> str:
    """The plot: requests and memory by the number of Nodes."""
    found = scale["sizes"]

    def line(name: str, values: Iterable[float]) -> plot.Line:
        return plot.Line(name=name, points=list(zip((size["nodes"] for size in found), values, strict=True)))

    return plot.svg(
        [
            plot.Chart(
                title="Requests through the load balancer, p99",
                x="simulated Nodes",
                y="milliseconds, logarithmic",
                lines=[line(kind, (size["requests"][kind]["p99"] for size in found)) for kind in _PLOTTED],
                logarithmic=True,
            ),
            plot.Chart(
                title="Memory of the components",
                x="simulated Nodes",
                y="MiB, on the controller where it is most",
                lines=[line(name, (size["memory"][name] for size in found)) for name in _COMPONENTS],
            ),
        ]
    )


TABLES: Mapping[str, Callable[[Any, Any], Rows]] = {
    each.__name__: each
    for each in (conditions, requests, sizes, memory, failovers, worker_conditions, workers, each_worker)
}


def measured() -> tuple[Any, Any]:
    """The figures of simulated Nodes, and those of real workers."""
    return tuple(json.loads((DOCS / name).read_text()) for name in ("scale.json", "scale-workers.json"))


def filled(page: str, scale: Any, bench: Any) -> str:
    """A page with a table in place of each mark."""
    return _TABLE.sub(lambda found: _markdown(TABLES[found[1]](scale, bench)), page)


def _surroundings(figures: Any, lab: str) -> Rows:
    return [
        ["condition", "value"],
        ["date", figures["date"]],
        ["Kubernetes", figures["kubernetes"]],
        ["lab", lab],
        ["cores", str(figures["cores"])],
        ["load (1, 5, 15 minutes) at the start", _load(figures["load_before"])],
        ["load at the end", _load(figures["load_after"])],
    ]


def _markdown(rows: Rows) -> str:
    heading, *others = rows
    lines = [heading, ["---"] * len(heading), *others]
    return "".join(f"|{'|'.join(cells)}|\n" if cells[0] == "---" else f"| {' | '.join(cells)} |\n" for cells in lines)


def _heading(first: str, found: Sequence[Any]) -> list[str]:
    return [first, *(f"{size['nodes']:,} Nodes" for size in found)]


def _line(text: str) -> str:
    """A text that may have several lines, and the sign between cells."""
    return " ".join(text.split()).replace("|", "\\|")


def _latency(latency: Any) -> str:
    return "-" if latency is None else f"{_milliseconds(latency['median'])} / {_milliseconds(latency['p99'])}"


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _count(latency: Any) -> str:
    return "0" if latency is None else f"{latency['count']:,}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _failover(found: Mapping[str, float | None], name: str) -> str:
    """Also whether it was not measured, as the machine that was hit did not lead; or never came."""
    value = found.get(name)
    return "-" if name not in found else ("never" if value is None else f"{value:.1f}")


def _load(averages: Sequence[float]) -> str:
    return ", ".join(f"{average:.1f}" for average in averages)


if __name__ == "__main__":
    figures = measured()
    PAGE.write_text(filled(TEMPLATE.read_text(), *figures))
    PLOT.write_text(drawn(figures[0]))
