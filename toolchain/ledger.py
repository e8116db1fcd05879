"""What is in the mirror, and where each file came from.

Two files in the mirror: `SHA256SUMS`, which the Pulumi program reads and `sha256sum -c` understands, and
`ORIGINS.json`, which says for each path whether upstream released it or it was built here, and from what: the sum of a
built file can never be taken for an official one.
"""

import json
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from config.artifacts import read_checksums
from config.whole_file import write_whole
from toolchain.checksum import sha256_of
from toolchain.origin import Origin

_SUMS = "SHA256SUMS"
_ORIGINS = "ORIGINS.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the mirror, as it was when it was put there."""

    sha256: str
    origin: Origin
    made_of: str
    """The URL of a released file; what a built one was built from."""
    size: int
    modified: int
    """In nanoseconds."""

    @property
    def recipe(self) -> str | None:
        """The hash of the recipe that it was built by, wherever that was then; None for a released file."""
        return None if self.origin is Origin.UPSTREAM else self.made_of.rpartition(", recipe ")[2]


class Ledger:
    """The record of one mirror. Threads may share it; processes take turns (see `exclusive`)."""

    def __init__(self, mirror: Path) -> None:
        self._mirror = mirror
        self._lock = threading.Lock()
        self._read: tuple[object, dict[str, Entry], dict[str, str]] | None = None

    def entry(self, path: str) -> Entry | None:
        """What is known of a file, if it is there and still what was recorded.

        Size and time decide. Where only the time differs, the checksum does, and the time is recorded again: a copy by
        tar, by a disk image or from a backup may have other times than the original.
        """
        entries, sums = self._both()
        entry = entries.get(path)
        if entry is None or sums.get(path) != entry.sha256:
            return None
        file = self._mirror / path
        try:
            status = file.stat()
        except FileNotFoundError:
            return None
        if status.st_size != entry.size:
            return None
        if status.st_mtime_ns == entry.modified:
            return entry
        if sha256_of(file) != entry.sha256:
            return None
        renewed = replace(entry, modified=status.st_mtime_ns)
        # A user who may only read the mirror has the answer all the same, each time after a look at the whole file.
        with suppress(PermissionError), self._lock:
            self._write(self._entries() | {path: renewed})
        return renewed

    def locked(self, path: str) -> str | None:
        """The sum that a released file had when it was first downloaded, be the file still there or not."""
        entry = self._entries().get(path)
        return entry.sha256 if entry and entry.origin is Origin.UPSTREAM else None

    def source(self, path: str) -> str | None:
        """What a released file is a copy of, be the file still there or not."""
        entry = self._entries().get(path)
        return entry.made_of if entry and entry.origin is Origin.UPSTREAM else None

    def record(self, path: str, *, origin: Origin, made_of: str) -> None:
        """Note a file that is in its place and complete."""
        file = self._mirror / path
        status = file.stat()
        entry = Entry(
            sha256=sha256_of(file),
            origin=origin,
            made_of=made_of,
            size=status.st_size,
            modified=status.st_mtime_ns,
        )
        with self._lock:
            self._write(self._entries() | {path: entry})

    def _both(self) -> tuple[dict[str, Entry], dict[str, str]]:
        """The entries and the sums; both files are read again only if one has changed: a set-up asks for each file."""
        now = [self._version(name) for name in (_ORIGINS, _SUMS)]
        if self._read is None or self._read[0] != now:
            self._read = now, self._entries(), read_checksums(self._mirror)
        return self._read[1], self._read[2]

    def _version(self, name: str) -> tuple[int, int] | None:
        try:
            status = (self._mirror / name).stat()
        except FileNotFoundError:
            return None
        # Each write is a new file.
        return status.st_ino, status.st_mtime_ns

    def _entries(self) -> dict[str, Entry]:
        try:
            recorded = json.loads((self._mirror / _ORIGINS).read_text())
        except FileNotFoundError:
            return {}
        return {path: Entry(**fields | {"origin": Origin(fields["origin"])}) for path, fields in recorded.items()}

    def _write(self, entries: dict[str, Entry]) -> None:
        ordered = dict(sorted(entries.items()))
        origins = {path: asdict(entry) | {"origin": entry.origin.value} for path, entry in ordered.items()}
        sums = "".join(f"{entry.sha256}  {path}\n" for path, entry in ordered.items())
        # For every user of the files. Killed in between: the two disagree on this file, which then counts as absent.
        write_whole(self._mirror / _ORIGINS, json.dumps(origins, indent=1) + "\n", mode=0o644)
        write_whole(self._mirror / _SUMS, sums, mode=0o644)
