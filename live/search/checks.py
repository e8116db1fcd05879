"""What a history must be: linearizable for each object, in the order of the versions, and as the watch saw it."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from live.search.history import Action, Event, Operation, Outcome
from toolchain.errors import ToolchainError

_SECONDS_A_KEY = 60
_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Checker:
    """The program that checks for linearizability.

    Args:
        program: its path, see toolchain/from_source/linearizability.py.
    """

    program: Path

    def violations(self, operations: Sequence[Operation], pages: Path | None = None) -> list[str]:
        """The objects whose history no order of its operations explains, a sentence each.

        Args:
            operations: of any number of objects.
            pages: the directory that takes a page of each such history, for people.

        Raises:
            ToolchainError: the program failed.
        """
        wanted = {each.key for each in operations if each.counts}
        if not wanted:
            return []
        command = [str(self.program), f"-timeout={_SECONDS_A_KEY}s"]
        if pages is not None:
            command.append(f"-visualize={pages}")
        given = "".join(f"{each.line()}\n" for each in operations if each.counts)
        try:
            done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ToolchainError(f"The linearizability checker did not end within {_SECONDS} s.") from None
        if done.returncode != 0:
            raise ToolchainError(f"The linearizability checker failed: {done.stderr.strip()}")
        results = json.loads(done.stdout)
        if results.keys() != wanted:
            raise ToolchainError(f"The linearizability checker checked {sorted(results)}, not {sorted(wanted)}.")
        said = {
            "Illegal": "its history is not linearizable",
            # No proof of anything: it must not pass.
            "Unknown": f"its history could not be judged within {_SECONDS_A_KEY} s",
        }
        return [f"{key}: {said[result]}" for key, result in sorted(results.items()) if result != "Ok"]


def in_order_of_versions(operations: Sequence[Operation]) -> list[str]:
    """What contradicts that all objects have one sequence of versions: that of etcd's revisions.

    A write that was acknowledged before another one was asked for has the lower version, also where they concern
    different objects; no two writes have the same one.
    """
    writes = [each for each in operations if each.writes and each.outcome == Outcome.OK and each.version]
    found = []
    by_version = sorted(writes, key=lambda each: each.version)
    for one, other in pairwise(by_version):
        if one.version == other.version:
            found.append(f"version {one.version} was given to {_named(one)} and to {_named(other)}")
    # From the highest version down: the earliest answer among the higher ones must not be before the call.
    earliest: Operation | None = None
    for each in reversed(by_version):
        if earliest is not None and earliest.returned < each.call:
            found.append(
                f"{_named(each)} has version {each.version}, lower than {earliest.version} of {_named(earliest)}, "
                "which was acknowledged before"
            )
        if earliest is None or each.returned < earliest.returned:
            earliest = each
    return found


def as_watched(operations: Sequence[Operation], events: Sequence[Event]) -> list[str]:
    """What contradicts that a watch of all objects reports every change once, in order, and nothing else."""
    return [
        *_order_of(events),
        *_changes_of(events),
        *_unexplained(operations, events),
        *_not_seen(operations, events),
        *_deletions(operations, events),
    ]


def _order_of(events: Sequence[Event]) -> Iterator[str]:
    for one, other in pairwise(events):
        if other.version <= one.version:
            yield f"the watch reports version {other.version} ({other.key}) after {one.version} ({one.key})"


def _changes_of(events: Sequence[Event]) -> Iterator[str]:
    present: set[str] = set()
    for each in events:
        if (each.key in present) == (each.kind == "ADDED"):
            there = "there already" if each.key in present else "not there"
            yield f"the watch says {each.kind} of {each.key} at version {each.version}, which is {there}"
        if each.kind == "DELETED":
            present.discard(each.key)
        else:
            present.add(each.key)


def _unexplained(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    asked = {each.value: each for each in operations if each.action in (Action.CREATE, Action.UPDATE)}
    for each in events:
        if each.kind == "DELETED":
            continue
        write = asked.get(each.value)
        kind = "ADDED" if write is not None and write.action == Action.CREATE else "MODIFIED"
        if write is None or write.key != each.key or kind != each.kind:
            yield f"the watch says {each.kind} of {each.key} to {each.value!r}, which no client wrote"
        elif write.outcome not in (Outcome.OK, Outcome.UNKNOWN):
            yield f"the watch reports {_named(write)}, whose outcome was {write.outcome}"
        elif write.outcome == Outcome.OK and write.version != each.version:
            yield f"the watch has version {each.version} of {_named(write)}, whose answer had {write.version}"


def _not_seen(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    seen = {each.value for each in events if each.kind != "DELETED"}
    for each in operations:
        if each.action in (Action.CREATE, Action.UPDATE) and each.outcome == Outcome.OK and each.value not in seen:
            yield f"the watch does not report {_named(each)}, which was acknowledged with version {each.version}"


def _deletions(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    for key in sorted({each.key for each in operations}):
        asked = [each.outcome for each in operations if each.key == key and each.action == Action.DELETE]
        sure, possible = asked.count(Outcome.OK), asked.count(Outcome.OK) + asked.count(Outcome.UNKNOWN)
        seen = sum(each.key == key and each.kind == "DELETED" for each in events)
        if not sure <= seen <= possible:
            yield f"the watch reports {seen} deletions of {key}; {sure} were acknowledged, {possible} are possible"


def _named(operation: Operation) -> str:
    return f"the {operation.action} of {operation.key} to {operation.value!r}"
