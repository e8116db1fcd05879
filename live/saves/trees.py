"""One directory of a machine's disk in an archive, and put back from it, exactly: owners, links, devices, attributes.

Beside the archive is an index: what each file was when it was saved, by its inode and the time of its last change
(ctime, which no program can set). A file of which both are the same has not changed since, so a rewind puts back only
what differs. The archive has everything, for a disk on which nothing is the same.

overlayfs keeps its own marks as devices (a deleted file is the device 0/0) and extended attributes below
`trusted.overlay`; only root reads and writes both.
"""

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from toolchain.command import ask
from toolchain.errors import ToolchainError

Index = dict[str, tuple[int, int, int, int]]
"""Path below the directory ("" is itself) -> mode, inode, ctime in nanoseconds, size."""

# Attributes of every namespace; by default tar takes only those of users.
_EXACTLY = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")
_KEPT_ATTRIBUTES = "security.selinux"


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a rewind does to a directory.

    Args:
        remove: paths that are not as in the save; none lies below another.
        extract: paths that the archive has and that are to be put there again; directories without their content.
        bytes: at the most so many are written.
    """

    remove: list[str]
    extract: list[str]
    bytes: int


def look(top: Path) -> Index:
    """The index of a directory as it is now."""
    found: Index = {"": _entry(top.lstat())}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(top / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                status = entry.stat(follow_symlinks=False)
                found[path] = _entry(status)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
    return found


def size_of(index: Index) -> int:
    """The bytes of all files."""
    return sum(size for mode, _, _, size in index.values() if stat.S_ISREG(mode))


def written(index: Index) -> str:
    """The index as a file has it. Names that are not UTF-8 are kept."""
    return json.dumps(index)


def read(text: str) -> Index:
    """The reverse of `written`."""
    return {path: (mode, inode, changed, size) for path, (mode, inode, changed, size) in json.loads(text).items()}


def archive(top: Path, file: Path) -> None:
    """Write a directory into an archive. What is in it must not change meanwhile.

    Raises:
        ToolchainError: tar fails.
    """
    # A socket is of no use without the process that has it open.
    _tar("--create", "--sparse", "--format=posix", "--warning=no-file-ignored", f"--file={file}", top=top, names=["."])


def changes(saved: Index, current: Index) -> Changes:
    """What makes a directory what it was.

    Args:
        saved: its index in the save.
        current: its index now.
    """
    differing = {path for path, entry in saved.items() if current.get(path) != entry}
    remove = sorted(
        path
        for path, (mode, *_) in current.items()
        if path not in saved or (path in differing and not (stat.S_ISDIR(mode) and stat.S_ISDIR(saved[path][0])))
    )
    remove = list(_topmost(remove))
    below = tuple(f"{path}/" for path in remove)
    extract = {path for path, (mode, *_) in saved.items() if path in differing and not stat.S_ISSOCK(mode)}
    # A directory that was another kind of file in between has nothing any more of what it had.
    extract |= {path for path in saved if path.startswith(below) and not stat.S_ISSOCK(saved[path][0])}
    # An entry that comes or goes changes the time of its directory.
    extract |= {path.rpartition("/")[0] for path in (*remove, *extract) if path} & saved.keys()
    return Changes(
        remove=remove,
        extract=sorted(extract),
        bytes=sum(saved[path][3] for path in extract if stat.S_ISREG(saved[path][0])),
    )


def put_back(top: Path, file: Path, wanted: Changes) -> None:
    """Make a directory what it was. Nothing may use it meanwhile. Killed anywhere, it can be done again.

    Args:
        top: the directory.
        file: its archive.
        wanted: what differs.

    Raises:
        ToolchainError: tar fails.
    """
    for path in wanted.remove:
        place = top / path
        if stat.S_ISDIR(place.lstat().st_mode):
            shutil.rmtree(place)
        else:
            place.unlink()
    for path in wanted.extract:
        # tar adds attributes to a directory that is there, and removes none.
        with suppress(FileNotFoundError):
            _drop_attributes(top / path)
    if wanted.extract:
        names = [f"./{path}" if path else "." for path in wanted.extract]
        _tar("--extract", "--same-permissions", "--same-owner", f"--file={file}", top=top, names=names)


def _tar(*options: str, top: Path, names: list[str]) -> None:
    # Not in the command line: it would be too long.
    with tempfile.NamedTemporaryFile() as listed:
        listed.write(b"".join(os.fsencode(name) + b"\0" for name in names))
        listed.flush()
        recursion = "--recursion" if "--create" in options else "--no-recursion"
        # They hold for what follows them.
        names_from = (recursion, "--null", "--verbatim-files-from", f"--files-from={listed.name}")
        try:
            done = ask("tar", *options, *_EXACTLY, f"--directory={top}", *names_from, env=_environment())
        except (OSError, subprocess.SubprocessError) as error:
            raise ToolchainError(f"tar cannot be run: {error}") from error
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[:5])
        raise ToolchainError(f"tar ended with status {done.returncode} for {top}: {said}")


def _environment() -> Mapping[str, str]:
    # Names of files are bytes.
    return os.environ | {"LC_ALL": "C"}


def _drop_attributes(place: Path) -> None:
    for name in os.listxattr(place, follow_symlinks=False):
        if name != _KEPT_ATTRIBUTES:
            os.removexattr(place, name, follow_symlinks=False)


def _topmost(paths: list[str]) -> Iterator[str]:
    """Of sorted paths those that lie below none of the others."""
    found: set[str] = set()
    for path in sorted(paths, key=lambda each: each.count("/")):
        parents = path.split("/")[:-1]
        if not any("/".join(parents[: length + 1]) in found for length in range(len(parents))):
            found.add(path)
            yield path


def _entry(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_mode, status.st_ino, status.st_ctime_ns, status.st_size
