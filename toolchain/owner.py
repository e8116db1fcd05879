"""The owner of the checkout: `sudo ./hardway up` runs as root and gives the files that it writes here to this user.

Root may also work, without sudo, in a checkout of another user: the rule is the same.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain import paths

_LEFT_ALONE = frozenset({".git", ".venv"})
"""In the checkout: Git's own files; bootstrap.sh makes .venv and gives it to the owner itself."""
_IN_USE_BY_ROOT = frozenset({"scratch", "locks"})
"""In the cache: a root file system that is being made there has files that must belong to root."""


@contextmanager
def keeps_files() -> Iterator[None]:
    """Give the files that root has made in the checkout to its owner when the `with` block ends."""
    try:
        yield
    finally:
        hand_over()


def hand_over() -> None:
    """Give the files of root in the checkout, and in the owner's cache, to the owner of the checkout.

    Only for root, and only where the checkout belongs to another user.
    """
    if (owner := paths.owner_besides_root()) is None:
        return
    _hand_over(paths.checkout(), owner, _LEFT_ALONE)
    cache = paths.cache()
    if cache.is_dir() and cache.is_relative_to(paths.home_of(owner.st_uid) or "/nonexistent"):
        for directory in (cache, *cache.parents):
            if directory.lstat().st_uid != 0:
                break
            os.chown(directory, owner.st_uid, owner.st_gid, follow_symlinks=False)
        _hand_over(cache, owner, _IN_USE_BY_ROOT)


def _hand_over(top: Path, owner: os.stat_result, left_alone: frozenset[str]) -> None:
    # By descriptors, without following links: nothing outside of the directory can be reached.
    device = top.lstat().st_dev
    for directory, directories, files, descriptor in os.fwalk(top, follow_symlinks=False):
        if directory == str(top):
            directories[:] = [name for name in directories if name not in left_alone]
        for name in [*directories, *files]:
            try:
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if _is_roots_own(found, device):
                    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue


def _is_roots_own(found: os.stat_result, device: int) -> bool:
    # A file with a second name may be a system file that was linked here.
    return found.st_uid == 0 and found.st_dev == device and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1)
