"""replace.sh: a user's file has its old content or its new content, also where the disk is full or bash is killed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from toolchain import paths

REPLACE = paths.checkout() / "components" / "replace.sh"
# Kills bash, as SIGKILL does, at the given number of commands.
DIE = "set -T\nleft={left}\ntrap '((left-- > 0)) || kill -9 $$ $BASHPID' DEBUG\n"
OLD = "127.0.0.1 localhost\n10.0.0.1 theirs, without a line feed at the end"
NEW = f"# BEGIN hardway\n10.0.0.2 ours\n# END hardway\n{OLD}"
PUT = "echo '10.0.0.2 ours' | put_block $R/hosts hardway"
DROP = "drop_block $R/hosts hardway"
MOUNT = "mount --bind $R/hosts $R/hosts"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "hosts").write_text(OLD)
    return tmp_path


def bash(root: Path, script: str, *, before: str = "", kill: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the verbs in a mount namespace of their own, after what is mounted there."""
    dies = "" if kill is None else DIE.format(left=kill)
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", f"{before}\nset -euo pipefail\n. {REPLACE}\n{dies}{script}"],
        env={"PATH": os.environ["PATH"], "R": str(root), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def alone(root: Path) -> bool:
    """Whether nothing is beside the file."""
    return [path.name for path in root.iterdir()] == ["hosts"]


@pytest.mark.parametrize("mounted", ["", MOUNT])
def test_a_block_is_put_and_dropped_and_nothing_is_left_beside(root: Path, mounted: str) -> None:
    file = root / "hosts"
    file.chmod(0o640)
    # The number of a file that is gone is given to the next one, so the first file stays open.
    with file.open() as first:
        for _ in range(2):
            assert bash(root, PUT, before=mounted).stderr == ""
            assert file.read_text() == NEW
        assert bash(root, DROP, before=mounted).returncode == 0
        assert file.read_text() == OLD
        assert file.stat().st_mode & 0o777 == 0o640
        assert alone(root)
        same = os.path.samestat(os.fstat(first.fileno()), file.stat())
    assert same == bool(mounted), "a mounted file cannot be renamed"


def test_a_symbolic_link_stays_one(root: Path) -> None:
    (root / "hosts").rename(root / "elsewhere")
    (root / "hosts").symlink_to("elsewhere")
    assert bash(root, PUT).returncode == 0
    assert (root / "hosts").is_symlink()
    assert (root / "elsewhere").read_text() == NEW


@pytest.mark.parametrize("mounted", ["", MOUNT])
@pytest.mark.parametrize(("script", "before", "after"), [(PUT, OLD, NEW), (DROP, NEW, OLD)])
def test_a_kill_at_any_command_loses_nothing(root: Path, mounted: str, script: str, before: str, after: str) -> None:
    file, seen = root / "hosts", set()
    for left in range(0, 200, 4):
        file.write_text(before)
        killed = bash(root, script, before=mounted, kill=left)
        seen.add(killed.returncode)
        there = file.read_text()
        if not mounted:
            assert there in (before, after)
        assert OLD.splitlines()[0] in there and len(there) >= min(len(before), len(after))
        assert bash(root, script, before=mounted).returncode == 0
        assert file.read_text() == after
        assert alone(root)
        if killed.returncode == 0:
            break
    assert seen == {-signal.SIGKILL, 0}


@pytest.mark.parametrize(("old", "new"), [(OLD, NEW), (NEW, OLD)])
@pytest.mark.parametrize("written", [0, 1, 17, len(OLD), len(NEW)])
@pytest.mark.parametrize("script", [PUT, DROP])
def test_what_was_killed_while_a_mounted_file_was_written_is_completed(
    root: Path, old: str, new: str, written: int, script: str
) -> None:
    (root / "hosts.hardway-old").write_text(old)
    (root / "hosts.hardway-new").write_text(new)
    longest = old + "\n" * max(0, len(new) - len(old))
    (root / "hosts").write_text(new[:written] + longest[written:])
    assert bash(root, script, before=MOUNT).returncode == 0
    assert (root / "hosts").read_text() == (NEW if script == PUT else OLD)
    assert alone(root)


def test_content_written_by_others_is_kept(root: Path) -> None:
    """A container engine writes /etc/hosts again when it starts the container."""
    (root / "hosts.hardway-old").write_text(OLD)
    (root / "hosts.hardway-new").write_text(NEW)
    (root / "hosts").write_text("127.0.0.1 localhost\n10.0.0.9 new address\n")
    assert bash(root, DROP, before=MOUNT).returncode == 0
    assert (root / "hosts").read_text() == "127.0.0.1 localhost\n10.0.0.9 new address\n"
    assert alone(root)


@pytest.mark.parametrize(
    ("mounted", "pages", "done"),
    [
        ("", 0, False),
        ("", 2, False),
        ("", 4, True),
        # The draft, the copy, and what the file is longer by.
        (MOUNT, 0, False),
        (MOUNT, 4, False),
        (MOUNT, 5, False),
        (MOUNT, 6, False),
        (MOUNT, 8, True),
    ],
)
def test_a_full_disk_loses_nothing(root: Path, mounted: str, pages: int, done: bool) -> None:
    """The disk is full before the draft, before the copy, or while the file is made longer."""
    lines = "".join(f"10.0.0.2 {number:0300d}\n" for number in range(50))
    (root / "lines").write_text(lines)
    disk = "\n".join(
        [
            "exec 3<$R/lines 4<$R/hosts",
            "mount -t tmpfs -o size=256k none $R",
            "cat <&4 >$R/hosts",
            mounted,
            "dd if=/dev/zero of=$R/rest bs=4k status=none 2>/dev/null || true",
            f"truncate -s -{4 * pages}k $R/rest",
        ]
    )
    result = bash(root, "(put_block $R/hosts hardway <&3) || true; rm $R/rest; cat $R/hosts; ls -A $R >&2", before=disk)
    assert result.stdout == (f"# BEGIN hardway\n{lines}# END hardway\n{OLD}" if done else OLD)
    assert ("No space left on device" in result.stderr) != done
    assert result.stderr.splitlines()[-1] == "hosts", "nothing is left beside it"


def test_a_block_without_its_end_is_not_removed(root: Path) -> None:
    """Its end was deleted by hand, and all lines of the user's below it with it."""
    text = "# BEGIN hardway\n10.0.0.3 ours once\n127.0.0.1 localhost\n10.0.0.1 theirs\n"
    (root / "hosts").write_text(text)
    said = bash(root, DROP)
    assert (root / "hosts").read_text() == text
    assert 'line 1, "# BEGIN hardway", has no end' in said.stderr
    for _ in range(2):
        assert bash(root, PUT).returncode == 0
        assert (root / "hosts").read_text() == f"# BEGIN hardway\n10.0.0.2 ours\n# END hardway\n{text}"
