"""The page: HTML by Jinja2, in parts that are sent again when they change."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from live.status.certificates import CertificateStatus
from live.view.events import Event
from live.view.now import LabNow, NodeNow, PodNow
from live.view.tiles import Tile

STATIC = Path(__file__).with_name("static")
PARTS = ("clock", "tiles", "machines", "etcd", "balancers", "timeline", "nodes", "pods", "services", "certificates")
"""Each is a template, and an element of the page."""
_LINES = 300
ROWS = 200
"""So many Nodes and pods are shown: the whole table is sent whenever one of them changes."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the timeline."""

    at: datetime
    event: Event


class Timeline:
    """The last events, newest first."""

    def __init__(self, lines: int = _LINES) -> None:
        self._lines: deque[Line] = deque(maxlen=lines)

    def add(self, found: Sequence[Event], at: datetime) -> None:
        """Add what changed at a moment."""
        for event in found:
            self._lines.appendleft(Line(at=at, event=event))

    @property
    def lines(self) -> list[Line]:
        """All of them."""
        return list(self._lines)


def _shown(items: Sequence[NodeNow | PodNow]) -> Sequence[NodeNow | PodNow]:
    """Those that have a row: all; of very many, those first that are not ready."""
    return items if len(items) <= ROWS else sorted(items, key=lambda each: each.ready)[:ROWS]


class Page:
    """Renders the page of a lab.

    Args:
        stack: the lab's name.
        endpoint: of its API.
    """

    def __init__(self, stack: str, endpoint: str) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).with_name("templates")),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._common: Mapping[str, Any] = {"stack": stack, "endpoint": endpoint, "rows": ROWS, "shown": _shown}

    def parts(
        self,
        lab: LabNow,
        tiles: Sequence[Tile],
        timeline: Sequence[Line],
        certificates: Sequence[CertificateStatus],
        at: datetime,
    ) -> dict[str, str]:
        """Part -> HTML."""
        given = {"lab": lab, "tiles": tiles, "timeline": timeline, "certificates": certificates, "at": at}
        return {name: self._render(f"{name}.html", given) for name in PARTS}

    def whole(self, parts: Mapping[str, str]) -> str:
        """The page, as it is without JavaScript."""
        return self._render("page.html", {"parts": {name: Markup(html) for name, html in parts.items()}})

    def _render(self, template: str, given: Mapping[str, Any]) -> str:
        return self._templates.get_template(template).render(**self._common, **given)
