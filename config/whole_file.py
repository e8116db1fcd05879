"""A file that is written whole or not at all: readers find the old content or the new one, also where a run is killed.

Standard library only: programs that the host's Python runs import it, too.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_whole(
    file: Path,
    content: str | bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    draft_in: Path | None = None,
    sync: bool = False,
) -> None:
    """Write a file by way of a draft that is renamed.

    Args:
        file: is replaced where it exists; its directory must exist.
        content: text is written in UTF-8.
        mode: the permissions, whatever the umask is.
        owner: user and group; without it, those of this process.
        draft_in: a directory of the same file system, where that of the file may have no other files.
        sync: whether the content must survive a power failure, too.

    Raises:
        OSError: it cannot be written. Then the old file is unchanged, and the draft is removed.
    """
    descriptor, name = tempfile.mkstemp(dir=draft_in or file.parent, prefix=f".{file.name}.")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            os.fchmod(out.fileno(), mode)
            if owner is not None:
                os.fchown(out.fileno(), *owner)
            out.write(content.encode() if isinstance(content, str) else content)
            if sync:
                out.flush()
                os.fsync(out.fileno())
        draft.replace(file)
    except BaseException:
        with suppress(FileNotFoundError):
            draft.unlink()
        raise


def link_whole(link: Path, target: Path) -> None:
    """Make a symbolic link, or lead it to another target, in one move: another run may be using it at this moment.

    Args:
        link: its directory must exist.
        target: what it leads to, as it is to be written down.
    """
    if link.is_symlink() and link.readlink() == target:
        return
    draft = link.with_name(f".{link.name}.{os.getpid()}")
    draft.symlink_to(target)
    draft.replace(link)


def remove_with_directory(file: Path) -> None:
    """Remove a file, if it is there, and its directory where that has nothing else."""
    file.unlink(missing_ok=True)
    if file.parent.exists() and not any(file.parent.iterdir()):
        file.parent.rmdir()


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a directory, survive a power failure, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
