"""Where saves are, and what each says of itself: `.state/NAME/saves/SAVE/`, for root or the checkout's owner alone.

A save is a directory that got its name when it was complete; a draft has another name, and counts as nothing. Its
checksums are in SHA256SUMS, for `sha256sum -c`, too.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from config.whole_file import write_whole
from toolchain import holder, paths
from toolchain.checksum import sha256_of
from toolchain.command import ask
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

FORMAT = 1
DESCRIPTION, SUMS, SEEN = "save.json", "SHA256SUMS", "seen.json"
STATE, SETTINGS, FILES = "state.json", "settings.yaml", "files"
DRAFT = ".draft"
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
# What decides which machines, files and flags a lab has.
_PROGRAM = ("__main__.py", "Pulumi.yaml", "bootstrap", "components", "config")
_UNIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Tree:
    """One directory of a machine.

    Args:
        destination: where it is in the machine; / is the machine's own disk.
        archive, index: the names of its files in the save.
        bytes: of its files.
    """

    destination: str
    archive: str
    index: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class SavedMachine:
    """One machine.

    Args:
        name: in the lab.
        id, image: of its container.
        trees: its own disk, then its volumes.
    """

    name: str
    id: str
    image: str
    trees: Sequence[Tree]


@dataclass(frozen=True, kw_only=True)
class Save:
    """What a save says of itself.

    Args:
        name: the save's.
        stack: of which lab.
        time: RFC 3339 in UTC.
        lab: the fingerprint of the lab's key.
        engine: its container engine.
        kubernetes: the version.
        program: of the sources that made the lab, see `program`.
        commit: of the checkout; empty if it is not known.
        secrets: what the secrets in the state are encrypted with: the provider and its salt.
        paused_seconds: how long the machines were paused for it; 0 for a stopped lab.
        machines: all of them.
        bytes: of the files of the save.
        format: of the save.
    """

    name: str
    stack: str
    time: str
    lab: str
    engine: str
    kubernetes: str
    program: str
    commit: str
    secrets: Mapping[str, Any]
    paused_seconds: float
    machines: Sequence[SavedMachine]
    bytes: int = 0
    format: int = FORMAT

    def json(self) -> str:
        """For the file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def directory(stack: Stack) -> Path:
    """Where the saves of a lab are."""
    return stack.directory / "saves"


def check_name(name: str) -> None:
    """Raises:
    ToolchainError: it is no name for a save.
    """
    if not _NAME.fullmatch(name):
        raise ToolchainError(
            f"{name!r} is no name for a save: write 1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or digit "
            "first and last. Nothing was changed."
        )


def names(stack: Stack) -> list[str]:
    """The names of all saves that are complete."""
    place = directory(stack)
    if not place.is_dir():
        return []
    return sorted(each.name for each in place.iterdir() if _NAME.fullmatch(each.name) and each.is_dir())


def read(stack: Stack, name: str) -> Save:
    """What a save says of itself.

    Raises:
        ToolchainError: there is none of this name, or it is damaged, or of another format.
    """
    check_name(name)
    place = directory(stack) / name
    if not place.is_dir():
        known = ", ".join(names(stack)) or "none"
        raise ToolchainError(f"The lab {stack.name} has no save {name!r}. Its saves: {known}. Nothing was changed.")
    try:
        said = json.loads((place / DESCRIPTION).read_text())
        if said["format"] != FORMAT:
            raise ToolchainError(
                f"The save {name} has the format {said['format']}, and this version of the program reads {FORMAT}: use "
                "the version that made it. Nothing was changed."
            )
        machines = [
            SavedMachine(**machine | {"trees": [Tree(**tree) for tree in machine["trees"]]})
            for machine in said["machines"]
        ]
        return Save(**said | {"machines": machines})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolchainError(
            f"The save {name} is damaged, {place / DESCRIPTION}: {error}. Nothing was changed. "
            f"`./hardway saves -s {stack.name} --remove {name}` removes it."
        ) from None


def remove(stack: Stack, name: str) -> None:
    """Remove a save, or what is left of one.

    Raises:
        ToolchainError: there is none of this name.
    """
    check_name(name)
    if name not in names(stack):
        read(stack, name)
    # From here on it is no save, also where this is killed.
    draft = new_draft(stack)
    draft.rmdir()
    (directory(stack) / name).rename(draft)
    shutil.rmtree(draft)


def remove_all(stack: Stack) -> list[str]:
    """Remove all saves of a lab that is no more, and return their names: no other lab can be rewound to them."""
    found = names(stack)
    if directory(stack).is_dir():
        shutil.rmtree(directory(stack))
    return found


def new_draft(stack: Stack) -> Path:
    """An empty directory for a save, in the place of one that a killed run has left. One run is at work on the lab."""
    draft = directory(stack) / DRAFT
    if draft.exists():
        shutil.rmtree(draft)
    directory(stack).mkdir(mode=0o700, parents=True, exist_ok=True)
    draft.mkdir(mode=0o700)
    return draft


def complete(stack: Stack, draft: Path, name: str) -> None:
    """Write the checksums of a draft, and give it its name."""
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        sums = list(threads.map(sha256_of, files))
    lines = [f"{found}  {file.relative_to(draft)}\n" for file, found in zip(files, sums, strict=True)]
    write_whole(draft / SUMS, "".join(lines))
    seen = {str(file.relative_to(draft)): _identity(file) for file in files}
    write_whole(draft / SEEN, json.dumps({"boot": holder.boot(), "files": seen}))
    # What a power failure cuts short later, the checksums show.
    draft.rename(directory(stack) / name)


def problems(stack: Stack, name: str) -> Iterator[str]:
    """The files of a save that are missing or are not what was saved.

    A file is not read again whose inode, size and time of last change are those that it had when its checksum was
    computed, in the same boot of the host: a save has more than 1 GiB, and reading it is a tenth of a rewind.
    """
    place = directory(stack) / name
    try:
        lines = [line.split("  ", 1) for line in (place / SUMS).read_text().splitlines()]
        known = {path: found for found, path in lines}
    except (OSError, ValueError) as error:
        yield f"its checksums cannot be read: {error}"
        return
    there = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} - {SUMS, SEEN}
    seen = _seen(place)
    yield from (f"its file {path} is not in its checksums" for path in sorted(there - known.keys()))

    def check(path: str) -> str:
        if path not in there:
            return f"its file {path} is missing"
        if seen.get(path) == _identity(place / path):
            return ""
        return "" if sha256_of(place / path) == known[path] else f"its file {path} is damaged: other checksum"

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        # The largest first: one that begins last would be waited for alone.
        by_size = sorted(known, key=lambda path: -(place / path).stat().st_size if path in there else 0)
        yield from filter(None, threads.map(check, by_size))


def _identity(file: Path) -> list[int]:
    """What changes with each change of a file, and with each copy: no program can set the time of the last change."""
    status = file.stat()
    return [status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size]


def _seen(place: Path) -> Mapping[str, list[int]]:
    """File -> its identity when its checksum was computed. Empty if the save has none, or after a boot of the host.

    After a power failure a file may have its size and its times, and not its content.
    """
    try:
        found = json.loads((place / SEEN).read_text())
        files: Mapping[str, list[int]] = found["files"] if found["boot"] == holder.boot() else {}
        return files
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def program() -> str:
    """What stands for the version of this program: a checksum of the sources that decide what a lab has."""
    found = hashlib.sha256()
    for name in _PROGRAM:
        top = paths.checkout() / name
        files = [top] if top.is_file() else sorted(each for each in top.rglob("*") if each.is_file())
        for file in files:
            if "__pycache__" not in file.parts:
                found.update(f"{file.relative_to(paths.checkout())}\0{sha256_of(file)}\n".encode())
    return found.hexdigest()[:16]


def commit() -> str:
    """The commit of the checkout; empty if it is not known."""
    try:
        done = ask("git", "-C", paths.checkout(), "rev-parse", "HEAD")
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def shown(number: int) -> str:
    """A number of bytes, for a person."""
    return f"{number / _UNIT:.0f} MiB"
