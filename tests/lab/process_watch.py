"""Every command line that appears on the host, machines included: their processes are the host's."""

import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

_LOOK_EVERY = 0.1
# A process is read at each of its first looks, in which most become another program; then only at every tenth. To read
# them all ten times in a second takes a part of a processor from the `up` that is watched.
_YOUNG = 10
_ALL_EVERY = 10


class ProcessWatch:
    """Looks at all processes as long as its `with` block runs."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        # Process -> how often it was read.
        self._read: dict[str, int] = {}
        self._done = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "ProcessWatch":
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._looking.join()

    def _look(self) -> None:
        looks = 0
        while not self._done.wait(_LOOK_EVERY):
            everything = looks % _ALL_EVERY == 0
            # A number that is free again may be another process's.
            self._read = {process: self._read.get(process, 0) + 1 for process in _processes()}
            asked = [process for process, times in self._read.items() if everything or times <= _YOUNG]
            self.seen |= _command_lines(asked)
            looks += 1


def command_lines() -> set[str]:
    """The command lines of all processes that live."""
    return _command_lines(_processes())


def _processes() -> list[str]:
    return [process.name for process in Path("/proc").iterdir() if process.name.isdigit()]


def _command_lines(processes: Iterable[str]) -> set[str]:
    found = set()
    for process in processes:
        try:
            found.add(Path("/proc", process, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
