"""Looks at a lab ten times a second while `view` runs, and renders what changed."""

import time
from contextlib import ExitStack
from datetime import datetime

from live.background import Background
from live.cluster import Cluster
from live.drills.api import Api
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
        api = Api(cluster)
        watches = {name: Watch(api, path) for name, path in PATHS.items()}
        readiness = Readiness(api, list(watches.values()))
        followers = [Follower(cluster, machine) for machine in cluster.machines]
        self._certificates = Certificates(cluster)
        self._running = ExitStack()
        self._all: list[Background] = [*followers, readiness, *watches.values(), self._certificates]
        self._look = Look(cluster, followers, readiness, watches)
        self._tiles, self._timeline = Tiles(), Timeline()
        self._page = Page(cluster.stack.name, cluster.endpoint)
        self._files: tuple[str, str, str] = ("", "", "")
        self._files_at: float | None = None
        self._before: LabNow | None = None
        self._rendered_at: float | None = None
        self.parts: dict[str, str] = {}
        self._observe()

    def page(self) -> str:
        """The whole page."""
        return self._page.whole(self.parts)

    def __enter__(self) -> "Observer":
        for each in self._all:
            self._running.enter_context(each)
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__(*_)
        # All are told at once; what ends one after the other would take seconds.
        for each in self._all:
            each._over.set()
        self._running.close()

    def _work(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            self._observe()

    def _observe(self) -> None:
        now = time.monotonic()
        if self._files_at is None or now - self._files_at >= _FILES_SECONDS:
            self._files, self._files_at = self._read_files(), now
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
