"""Looks at a lab ten times a second while `view` runs, and renders what changed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from live.background import Background
from live.cluster import Cluster, find
from live.https_api import Api
from live.lessons import record
from live.view.api import PATHS, Readiness, Watch
from live.view.certificates import Certificates
from live.view.events import events
from live.view.machines import Follower
from live.view.now import LabNow, Look
from live.view.page import Page, Timeline
from live.view.tiles import Tiles
from toolchain import halted, operations
from toolchain.errors import ToolchainError

_EVERY_SECONDS = 0.1
_RENDER_SECONDS = 0.5
_FILES_SECONDS = 0.5


class Observer(Background):
    """Follows a lab as long as its `with` block runs; `parts` is the page as it is now."""

    _END_SECONDS = 2

    def __init__(self, cluster: Cluster) -> None:
        super().__init__("view observer")
        self._cluster = cluster
        self._certificates = Certificates(cluster)
        self._tiles, self._timeline = Tiles(), Timeline()
        self._files: tuple[str, str, str] = ("", "", "")
        self._files_at: float | None = None
        self._before: LabNow | None = None
        self._rendered_at: float | None = None
        self.parts: dict[str, str] = {}
        self._written = _written(cluster)
        self._sources = self._follow(cluster)
        self._observe()

    def _follow(self, cluster: Cluster, before: "_Sources | None" = None) -> "_Sources":
        """Set up what is asked of the lab; what would ask the same as before stays."""
        sources = _Sources.of(cluster, before)
        self._cluster = cluster
        self._page = Page(cluster.stack.name, cluster.endpoint)
        self._look = Look(cluster, sources.followers, sources.readiness, sources.watches)
        return sources

    def page(self) -> str:
        """The whole page."""
        return self._page.whole(self.parts)

    def __enter__(self) -> "Observer":
        for each in (*self._sources.all, self._certificates):
            each.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__(*_)
        _end([*self._sources.all, self._certificates])

    def _work(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            self._observe()

    def _observe(self) -> None:
        now = time.monotonic()
        if self._files_at is None or now - self._files_at >= _FILES_SECONDS:
            self._files, self._files_at = self._read_files(), now
            self._renew()
        command, lesson, stopped = self._files
        lab = self._look.now(command=command, lesson=lesson, halted=stopped)
        found = [] if self._before is None else events(self._before, lab)
        self._timeline.add(found, datetime.now().astimezone())
        # Ages in the tiles change without an event.
        if lab != self._before or self._rendered_at is None or now - self._rendered_at >= _RENDER_SECONDS:
            self._rendered_at = now
            tiles = self._tiles.make(lab, now)
            known = self._certificates.known
            self.parts = self._page.parts(lab, tiles, self._timeline.lines, known, datetime.now().astimezone())
        self._before = lab

    def _renew(self) -> None:
        """Where `up` has written the lab's files again: its new machines, its endpoint and its keys."""
        written = _written(self._cluster)
        if written == self._written:
            return
        try:
            cluster = find(self._cluster.stack)
            before, self._sources = self._sources, self._follow(cluster, self._sources)
        except (OSError, ValueError, LookupError, ToolchainError):
            # Destroyed, stopped, or only a part of a lab: it is looked at again.
            return
        self._written = written
        for each in self._sources.all:
            if each not in before.all:
                each.__enter__()
        _end([each for each in before.all if each not in self._sources.all])

    def _read_files(self) -> tuple[str, str, str]:
        """The command that is at work, the lesson, and why the lab does not run."""
        stack = self._cluster.stack
        command = operations.at_work_on(stack)
        try:
            kept = record.read(stack)
        except ToolchainError:
            kept = None
        lesson = f"lesson {kept.lesson} ({kept.phase})" if kept else ""
        if not (stack.directory / "kubeconfig").exists():
            return command, lesson, f"The lab {stack.name} was destroyed."
        since = halted.stopped_since(stack)
        return command, lesson, halted.said_stopped(stack, since) if since else ""


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """What is asked of a lab.

    Args:
        way: endpoint and kubeconfig, by which the API is asked.
        followers: of its machines.
        readiness, watches: of its API.
    """

    way: tuple[str, bytes]
    followers: Sequence[Follower]
    readiness: Readiness
    watches: Mapping[str, Watch]

    @property
    def all(self) -> list[Background]:
        """All of them."""
        return [*self.followers, self.readiness, *self.watches.values()]

    @classmethod
    def of(cls, cluster: Cluster, before: "_Sources | None" = None) -> "_Sources":
        """Those of a lab, some of them from before."""
        known = {each.machine.name: each for each in (before.followers if before else ())}
        followers = [
            old if (old := known.get(machine.name)) and old.asks_as(cluster, machine) else Follower(cluster, machine)
            for machine in cluster.machines
        ]
        way = (cluster.endpoint, (cluster.stack.directory / "kubeconfig").read_bytes())
        if before is not None and before.way == way:
            return cls(way=way, followers=followers, readiness=before.readiness, watches=before.watches)
        api = Api(cluster)
        watches = {name: Watch(api, path) for name, path in PATHS.items()}
        return cls(way=way, followers=followers, readiness=Readiness(api, list(watches.values())), watches=watches)


def _written(cluster: Cluster) -> list[int]:
    """When the lab's files were written; empty where one is missing."""
    try:
        return [(cluster.stack.directory / name).stat().st_mtime_ns for name in ("lab.json", "kubeconfig")]
    except OSError:
        return []


def _end(those: Sequence[Background]) -> None:
    """End them. All are told at once: one after the other would take seconds."""
    for each in those:
        each.tell_to_end()
    for each in those:
        each.__exit__()
