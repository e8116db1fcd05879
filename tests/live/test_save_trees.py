"""A directory in an archive and put back: what an overlay's upper directory has, and what a machine may do to it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from live.saves import trees
from toolchain.errors import ToolchainError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="devices and trusted attributes are root's")


def make(top: Path) -> None:
    """A directory as machines have it."""
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "passwd").write_text("root\n")
    (top / "etc" / "shadow").write_text("secret\n")
    (top / "etc" / "shadow").chmod(0o640)
    (top / "etc" / "link").symlink_to("passwd")
    (top / "etc" / "dangling").symlink_to("/nowhere")
    os.link(top / "etc" / "passwd", top / "etc" / "second-name")
    (top / "usr" / "bin").mkdir(parents=True)
    (top / "usr" / "bin" / "program").write_bytes(b"\x7fELF" * 1000)
    (top / "usr" / "bin" / "program").chmod(0o4755)
    (top / "var" / "a name\nof \udcff bytes").mkdir(parents=True)
    (top / "var" / "-rf").write_text("not an option")
    with (top / "var" / "wal").open("wb") as sparse:
        sparse.truncate(64 << 20)
        sparse.write(b"log")
    os.mkfifo(top / "var" / "fifo")
    os.utime(top / "var" / "wal", ns=(1, 1234567890123456789))
    if os.geteuid() == 0:
        # A deleted file, a directory that hides that of the image, owners that the host does not know.
        os.mknod(top / "etc" / "deleted", stat.S_IFCHR, os.makedev(0, 0))
        os.setxattr(top / "usr", "trusted.overlay.opaque", b"y")
        os.setxattr(
            top / "usr" / "bin" / "program", "security.capability", bytes.fromhex("01000002" + "0004" + "00" * 14)
        )
        os.setxattr(top / "var", "user.of-a-user", b"kept")
        os.chown(top / "var" / "wal", 4711, 4712)


def told(top: Path) -> dict[str, object]:
    """All that must be the same afterwards."""
    found: dict[str, object] = {}
    for path in [*sorted(top.rglob("*")), top]:
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: object = None
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = path.readlink()
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        found[str(path.relative_to(top))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            status.st_nlink,
            status.st_mtime_ns,
            content,
            attributes,
        )
    return found


@pytest.fixture
def top(tmp_path: Path) -> Path:
    made = tmp_path / "diff"
    make(made)
    return made


def saved(top: Path) -> tuple[Path, trees.Index]:
    """The archive and the index of a directory."""
    archive = top.with_name("archive.tar")
    index = trees.read(trees.written(trees.look(top)))
    trees.archive(top, archive)
    return archive, index


def put_back(top: Path, archive: Path, index: trees.Index) -> trees.Changes:
    wanted = trees.changes(index, trees.look(top))
    trees.put_back(top, archive, wanted)
    return wanted


def replace_by_directory(top: Path) -> None:
    (top / "etc" / "passwd").unlink()
    (top / "etc" / "passwd").mkdir()
    (top / "etc" / "passwd" / "inside").write_text("x")


def replace_directory_by_file(top: Path) -> None:
    (top / "usr" / "bin" / "program").unlink()
    (top / "usr" / "bin").rmdir()
    (top / "usr" / "bin").write_text("a file")


def replace_directory_by_link(top: Path) -> None:
    """What is put back must not be written through it."""
    elsewhere = top.with_name("elsewhere")
    elsewhere.mkdir()
    (top / "usr" / "bin" / "program").unlink()
    (top / "usr" / "bin").rmdir()
    (top / "usr" / "bin").symlink_to(elsewhere)


def same_content_and_time(top: Path) -> None:
    """What tools that compare size and time do not see."""
    file = top / "etc" / "shadow"
    before = file.stat()
    file.write_text("SECRET\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def set_attributes(top: Path) -> None:
    os.setxattr(top / "etc", "trusted.overlay.opaque", b"y")
    os.removexattr(top / "usr", "trusted.overlay.opaque")


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda top: None,
    "content": lambda top: (top / "etc" / "shadow").write_text("other, and longer\n"),
    "same size and time": same_content_and_time,
    "mode": lambda top: (top / "etc" / "shadow").chmod(0o644),
    "new file": lambda top: (top / "etc" / "new").write_text("new"),
    "new directory": lambda top: make(top / "etc" / "new"),
    "removed file": lambda top: (top / "var" / "-rf").unlink(),
    "removed link": lambda top: (top / "etc" / "second-name").unlink(),
    "third link": lambda top: os.link(top / "etc" / "passwd", top / "etc" / "third"),
    "renamed": lambda top: (top / "usr" / "bin").rename(top / "usr" / "sbin"),
    "removed name of bytes": lambda top: (top / "var" / "a name\nof \udcff bytes").rmdir(),
    "a directory for a file": replace_by_directory,
    "a file for a directory": replace_directory_by_file,
    "a link for a directory": replace_directory_by_link,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_directory_is_put_back_as_it_was(top: Path, change: Callable[[Path], object]) -> None:
    before = told(top)
    archive, index = saved(top)
    change(top)
    put_back(top, archive, index)
    assert told(top) == before
    if (elsewhere := top.with_name("elsewhere")).exists():
        assert list(elsewhere.iterdir()) == []


@as_root
def test_marks_of_the_overlay_are_put_back(top: Path) -> None:
    before = told(top)
    archive, index = saved(top)
    set_attributes(top)
    (top / "etc" / "deleted").unlink()
    (top / "etc" / "deleted").write_text("there again")
    os.chown(top / "var" / "wal", 0, 0)
    put_back(top, archive, index)
    assert told(top) == before


def test_only_what_differs_is_written(top: Path) -> None:
    archive, index = saved(top)
    program = top / "usr" / "bin" / "program"
    inode = program.stat().st_ino
    (top / "etc" / "shadow").write_text("x")
    wanted = put_back(top, archive, index)
    assert wanted.remove == ["etc/shadow"] and wanted.extract == ["etc", "etc/shadow"]
    assert wanted.bytes == len("secret\n")
    assert program.stat().st_ino == inode


def test_another_disk_gets_everything(top: Path, tmp_path: Path) -> None:
    before = told(top)
    archive, index = saved(top)
    other = tmp_path / "other"
    other.mkdir()
    (other / "left").write_text("x")
    put_back(other, archive, index)
    assert told(other) == before


def test_one_that_was_killed_is_done_again(top: Path) -> None:
    before = told(top)
    archive, index = saved(top)
    (top / "etc" / "new").write_text("new")
    (top / "etc" / "shadow").write_text("x")
    wanted = trees.changes(index, trees.look(top))
    # It had removed, and written one file of two.
    trees.put_back(top, archive, trees.Changes(remove=wanted.remove, extract=["etc/shadow"], bytes=0))
    put_back(top, archive, index)
    assert told(top) == before


def test_an_archive_that_cannot_be_read_is_an_error(top: Path) -> None:
    archive, index = saved(top)
    (top / "etc" / "shadow").write_text("x")
    archive.write_bytes(b"no archive")
    with pytest.raises(ToolchainError, match="tar ended with status 2"):
        put_back(top, archive, index)
