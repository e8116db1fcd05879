"""Line charts as SVG, one below the other: what docs/scale.svg needs, and no more."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

# Of the Okabe-Ito palette: distinguishable also by readers who do not see all colours.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499")
_WIDTH, _HEIGHT = 800, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 214, 56, 52
_SIZE, _TITLE_SIZE = 13, 15
_DARK = "#333"
_LINE_HEIGHT = 17
_TICKS = 6


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart: its name, and (x, y) in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with a linear axis of x, which begins at 0 and has a tick at each x of a point.

    Args:
        title: above it.
        x, y: what the axes show, with the unit.
        lines: one at least, with a point at least.
        logarithmic: the axis of y is; else it is linear and begins at 0.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    logarithmic: bool = False


def svg(charts: Sequence[Chart]) -> str:
    """The picture, with a white background: a page may be dark."""
    height = _HEIGHT * len(charts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
        f' font-family="sans-serif" font-size="{_SIZE}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, chart in enumerate(charts):
        parts += _drawn(chart, _HEIGHT * number)
    return "\n".join([*parts, "</svg>\n"])


def _drawn(chart: Chart, offset: int) -> Iterator[str]:
    right, top, bottom = _WIDTH - _RIGHT, offset + _TOP, offset + _HEIGHT - _BOTTOM
    xs = sorted({x for line in chart.lines for x, _ in line.points})
    ys = [y for line in chart.lines for _, y in line.points]
    ticks = _powers(min(ys), max(ys)) if chart.logarithmic else _steps(max(ys))

    def across(x: float) -> float:
        return _LEFT + (right - _LEFT) * x / (xs[-1] or 1)

    def down(y: float) -> float:
        low, high, value = (math.log(each) if chart.logarithmic else each for each in (ticks[0], ticks[-1], y))
        return bottom - (bottom - top) * (value - low) / (high - low)

    yield _text(_LEFT, offset + 22, chart.title, size=_TITLE_SIZE, weight="bold")
    yield _text(_LEFT, offset + 42, chart.y)
    yield _text((_LEFT + right) / 2, bottom + 40, chart.x, anchor="middle")
    for y in ticks:
        yield _stroke(_LEFT, down(y), right, down(y), "#ddd")
        yield _text(_LEFT - 8, down(y) + 4, f"{y:,g}", anchor="end")
    for x in xs:
        yield _stroke(across(x), bottom, across(x), bottom + 5, _DARK)
        yield _text(across(x), bottom + 20, f"{x:,g}", anchor="middle")
    yield _stroke(_LEFT, bottom, right, bottom, _DARK)
    yield _stroke(_LEFT, top, _LEFT, bottom, _DARK)
    ends = [down(line.points[-1][1]) for line in chart.lines]
    for line, end, label, colour in zip(chart.lines, ends, _apart(ends, top, bottom), _COLOURS, strict=False):
        places = [(across(x), down(y)) for x, y in line.points]
        shown = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{shown}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, y in places:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
        yield _stroke(places[-1][0] + 5, end, right + 16, label, colour)
        yield _text(right + 20, label + 4, line.name, fill=colour)


def _apart(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Places of labels: near the wanted ones, one below the other without an overlap, and not below the bottom."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    places = [max(wanted[number], top) for number in order]
    for above, below in pairwise(range(len(places))):
        places[below] = max(places[below], places[above] + _LINE_HEIGHT)
    limit = bottom
    for number in reversed(range(len(places))):
        places[number] = min(places[number], limit)
        limit = places[number] - _LINE_HEIGHT
    return [places[order.index(number)] for number in range(len(wanted))]


def _steps(most: float) -> list[float]:
    """From 0 to `most` or a little more, in steps of 1, 2 or 5 times a power of ten."""
    rough = most / _TICKS or 1
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [number * step for number in range(max(1, math.ceil(most / step)) + 1)]


def _powers(least: float, most: float) -> list[float]:
    """1, 2 and 5 times each power of ten, from `least` or a little less to `most` or a little more."""
    exponents = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    every = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    first = max(number for number, each in enumerate(every) if each <= least)
    last = min(number for number, each in enumerate(every) if each >= most and number > first)
    return every[first : last + 1]


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = _SIZE,
    weight: str = "normal",
    fill: str = _DARK,
) -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{fill}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
