"""What people see while set-up goes on: one line for each part, what it does, how far it is, how long it took.

In a terminal the lines of running parts move; elsewhere plain lines are printed: one when a part has run for a
second, one each 20 s of long work, and one at its end.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, Self, TextIO

_FIRST_LINE_AFTER = 1.0
_NEXT_LINE_AFTER = 20.0
_LOOK_EVERY = 0.5


class CancelledError(Exception):
    """Raised inside a part when the whole set-up is given up."""


class Part:
    """One piece of set-up that is going on; made by `Report.part`."""

    def __init__(self, name: str, of: "Part | None", cancelled: threading.Event) -> None:
        self.name = name
        self.of = of
        self._cancelled = cancelled
        self.doing = ""
        self.done = 0
        self.total: int | None = None
        self.already_there = False
        self.failed = False
        self.started = time.monotonic()
        self.ended: float | None = None

    def say(self, doing: str) -> None:
        """What is being done right now, in a few words.

        Raises:
            CancelledError: the whole set-up is given up; so does `advance`.
        """
        self._go_on()
        self.doing = doing.strip()

    def advance(self, done: int, total: int | None) -> None:
        """How many bytes have come, of how many (None: unknown)."""
        self._go_on()
        self.done, self.total = done, total

    def found(self) -> None:
        """Nothing had to be done."""
        self.already_there = True

    @property
    def seconds(self) -> float:
        """How long it has taken, or took."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def detail(self) -> str:
        """The current step and how far it is."""
        return " ".join(word for word in (self.doing, self._amount()) if word)

    @property
    def outcome(self) -> str:
        """The line that stands when it has ended."""
        if self.failed:
            return f"{self.name}: failed after {self.seconds:.1f} s"
        if self.already_there:
            return f"{self.name}: already there"
        return f"{self.name}: done in {self.seconds:.1f} s"

    def _go_on(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError(self.name)

    def _amount(self) -> str:
        if not self.done:
            return ""
        if not self.total:
            return f"{self.done / 1e6:.1f} MB"
        return f"{self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB ({100 * self.done // self.total} %)"


class _Display(Protocol):
    def look(self, running: list[Part]) -> None: ...

    def line(self, text: str) -> None: ...

    def close(self) -> None: ...


class _Plain:
    """Lines for a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.monotonic()
        self._last_line: dict[Part, float] = {}

    def look(self, running: list[Part]) -> None:
        now = time.monotonic()
        whole = {part.of for part in running}
        for part in (part for part in running if part not in whole):
            last = self._last_line.get(part)
            due = part.started + _FIRST_LINE_AFTER if last is None else last + _NEXT_LINE_AFTER
            if now >= due:
                self._last_line[part] = now
                self.line(f"{part.name}: {part.detail or 'working'}, {part.seconds:.0f} s so far")

    def line(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Report:
    """Shows parts while they run, and the seconds of each when all is done. Use as a context manager."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._parts: list[Part] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._cancelled = threading.Event()
        self._display: _Display = _Plain(self._stream)
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._stream is sys.stdout and sys.stdout.isatty():
            # rich takes longer to import than everything else of a set-up that has nothing to do.
            from toolchain.moving_lines import MovingLines

            self._display = MovingLines()
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._watcher.join()
        self._display.close()
        if kind is None:
            self._summarise()

    def part(self, name: str, *, of: Part | None = None) -> AbstractContextManager[Part]:
        """Show a part, and maybe what it is a part `of`, for as long as the `with` block runs.

        Several may run at once, in threads.
        """
        return self._part(name, of)

    def note(self, text: str) -> None:
        """Say something once."""
        with self._lock:
            self._display.line(text)

    def cancel(self) -> None:
        """Have all parts that are running in threads end soon."""
        self._cancelled.set()

    @contextmanager
    def _part(self, name: str, of: Part | None) -> Iterator[Part]:
        part = Part(name, of, self._cancelled)
        with self._lock:
            self._parts.append(part)
        try:
            yield part
        except BaseException:
            part.failed = True
            raise
        finally:
            part.ended = time.monotonic()
            with self._lock:
                self._display.line(part.outcome)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            with self._lock:
                self._display.look([part for part in self._parts if part.ended is None])

    def _summarise(self) -> None:
        worked = [part for part in self._parts if not part.already_there]
        if not worked:
            return
        print("What took how long:", file=self._stream)
        for part in sorted(worked, key=lambda part: part.started):
            indent = "  " if part.of else ""
            print(f"  {part.seconds:7.1f} s  {indent}{part.name}", file=self._stream)
        self._stream.flush()
