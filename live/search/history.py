"""What clients of the API did, and what they were told: the history that the checks judge.

As a file it has one JSON object a line. Times are nanoseconds of the Pulumi host's monotonic clock; all clients are
threads of one process, so that all have the same clock.
"""

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Action(StrEnum):
    """What is asked of the API."""

    CREATE = "create"
    UPDATE = "update"
    """Compare-and-swap: PUT with the resourceVersion that the client has read."""
    DELETE = "delete"
    GET = "get"


class Outcome(StrEnum):
    """What the answer means."""

    OK = "ok"
    CONFLICT = "conflict"
    """HTTP 409: it exists already, or has another version than expected."""
    MISSING = "missing"
    """HTTP 404."""
    REFUSED = "refused"
    """It cannot have taken effect: no connection, or an answer that says so (401, 403, 429)."""
    UNKNOWN = "unknown"
    """It may have taken effect, may still do so, or never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One request of one client.

    Args:
        client: its number; a client has one request at a time.
        action: what was asked.
        key: the object's name.
        call: when it was asked.
        returned: when the answer came, or the client gave up.
        outcome: what the answer means.
        value: what was to be written, or what was read; unique for every write.
        version: the resourceVersion in the answer; 0 where there is none.
        expected: of an update, the version that it replaces.
        expected_value: of an update, the value that was read with that version.
    """

    client: int
    action: Action
    key: str
    call: int
    returned: int
    outcome: Outcome
    value: str = ""
    version: int = 0
    expected: int = 0
    expected_value: str = ""

    @property
    def writes(self) -> bool:
        """Whether it is to change something."""
        return self.action != Action.GET

    @property
    def counts(self) -> bool:
        """Whether it says anything about the object: what was refused, and a read without an answer, does not."""
        return self.outcome != Outcome.REFUSED and (self.writes or self.outcome != Outcome.UNKNOWN)

    def line(self) -> str:
        """As it stands in a file."""
        fields = asdict(self)
        fields["return"] = fields.pop("returned")
        return json.dumps(fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of a watch.

    Args:
        kind: ADDED, MODIFIED or DELETED.
        key: the object's name.
        version: its resourceVersion, that of its deletion for DELETED.
        value: its value then.
    """

    kind: str
    key: str
    version: int
    value: str


class History:
    """Collects operations of several threads."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._lock = threading.Lock()

    def add(self, operation: Operation) -> None:
        """Record an operation that has ended."""
        with self._lock:
            self._operations.append(operation)

    @property
    def operations(self) -> list[Operation]:
        """All so far, in the order of their calls."""
        with self._lock:
            return sorted(self._operations, key=lambda each: each.call)


def write(file: Path, operations: Iterable[Operation], events: Iterable[Event]) -> None:
    """Write a history with what the watch saw."""
    lines = [each.line() for each in operations]
    lines += [json.dumps({"event": asdict(each)}) for each in events]
    file.write_text("".join(f"{line}\n" for line in lines))


def read(file: Path) -> tuple[list[Operation], list[Event]]:
    """Read what `write` has written."""
    operations, events = [], []
    for line in file.read_text().splitlines():
        fields = json.loads(line)
        if "event" in fields:
            events.append(Event(**fields["event"]))
            continue
        fields["returned"] = fields.pop("return")
        fields["action"], fields["outcome"] = Action(fields["action"]), Outcome(fields["outcome"])
        operations.append(Operation(**fields))
    return operations, events


def acknowledged(operations: Sequence[Operation]) -> int:
    """How many writes were acknowledged."""
    return sum(each.writes and each.outcome == Outcome.OK for each in operations)
