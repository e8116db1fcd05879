"""Every command line that appears on the host, machines included: their processes are the host's."""

import threading
from pathlib import Path
from types import TracebackType

_LOOK_EVERY = 0.1


class ProcessWatch:
    """Looks at all processes as long as its `with` block runs."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
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
        while not self._done.wait(_LOOK_EVERY):
            self.seen |= command_lines()


def command_lines() -> set[str]:
    """The command lines of all processes that live."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
