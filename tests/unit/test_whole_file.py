"""Files that are written whole or not at all."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.whole_file import write_whole
from toolchain import paths


def test_file_has_content_and_mode_whatever_the_umask_is(tmp_path: Path) -> None:
    file = tmp_path / "file"
    before = os.umask(0o077)
    try:
        write_whole(file, "ä\n", mode=0o644, sync=True)
    finally:
        os.umask(before)
    assert file.read_bytes() == "ä\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    write_whole(file, b"\0")
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"\0", 0o600)
    assert list(tmp_path.iterdir()) == [file]


def test_failed_write_keeps_the_old_file_and_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    monkeypatch.setattr(os, "fchmod", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_draft_is_in_the_other_directory(tmp_path: Path) -> None:
    watched, drafts = tmp_path / "watched", tmp_path / "drafts"
    watched.mkdir()
    with pytest.raises(FileNotFoundError):
        write_whole(watched / "file", "x", draft_in=drafts)
    drafts.mkdir()
    write_whole(watched / "file", "x", draft_in=drafts)
    assert [[each.name for each in directory.iterdir()] for directory in (watched, drafts)] == [["file"], []]


def test_killed_writer_leaves_one_of_its_whole_contents(tmp_path: Path) -> None:
    """A large file that is written again and again: killed at any moment, it has equal lines only."""
    file = tmp_path / "file"
    forever = (
        f"import sys; sys.path.insert(0, {str(paths.checkout())!r})\n"
        "from pathlib import Path\nfrom config.whole_file import write_whole\n"
        f"for n in range(10**9): write_whole(Path({str(file)!r}), f'{{n}}\\n' * 200000)\n"
    )
    for _ in range(5):
        file.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", forever]) as writer:
            deadline = time.monotonic() + 30
            while not file.exists():
                assert writer.poll() is None and time.monotonic() < deadline, "nothing is written"
            writer.send_signal(signal.SIGKILL)
        lines = file.read_text().splitlines()
        assert len(lines) == 200000 and len(set(lines)) == 1
