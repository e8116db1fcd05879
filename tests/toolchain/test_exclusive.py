import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolchain import paths
from toolchain.exclusive import exclusive

HOLD = """
import sys, time
from pathlib import Path
from toolchain.exclusive import exclusive
class Mute:
    def say(self, doing): pass
with exclusive(Path(sys.argv[1]), what="filling the mirror", part=Mute()):
    print("held", flush=True)
    sys.stdin.readline()
"""

COUNT = """
import sys
from pathlib import Path
from toolchain.exclusive import exclusive
class Mute:
    def say(self, doing): pass
counter = Path(sys.argv[2])
for _ in range(100):
    with exclusive(Path(sys.argv[1]), what="counting", part=Mute()):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


class Heard:
    """Notes what is said; the first word lets the holder end."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.words: list[str] = []
        self._then = then

    def say(self, doing: str) -> None:
        self.words.append(doing)
        self._then()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "mirror"


@pytest.fixture
def holder(lock: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        cwd=paths.checkout(),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_free_lock_is_taken_at_once_and_leaves_nothing(lock: Path) -> None:
    heard = Heard()
    with exclusive(lock, what="testing", part=heard):
        assert lock.exists()
    assert heard.words == []
    assert not lock.exists()


def test_the_second_waits_and_says_for_whom(lock: Path, holder: "subprocess.Popen[str]") -> None:
    def release() -> None:
        assert holder.stdin is not None
        if not holder.stdin.closed:
            holder.stdin.close()

    heard = Heard(then=release)
    with exclusive(lock, what="testing", part=heard):
        assert holder.wait(timeout=10) == 0
    assert heard.words[0] == f"waiting for another run (process {holder.pid}, filling the mirror)"


def test_a_holder_that_is_killed_blocks_nobody(lock: Path, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock.exists(), "it could not clean up"
    started = time.monotonic()
    with exclusive(lock, what="testing", part=Heard()):
        assert time.monotonic() - started < 5


def test_a_failure_inside_releases_it(lock: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(lock, what="testing", part=Heard()):
        raise ZeroDivisionError
    assert not lock.exists()


def test_a_lock_on_a_file_that_was_removed_meanwhile_means_nothing(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, calls = fcntl.flock, []

    def after_the_holder_removed_it(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            lock.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", after_the_holder_removed_it)
    with exclusive(lock, what="testing", part=Heard()):
        assert len(calls) == 2
        assert lock.exists()


def test_nobody_gets_in_beside_another(lock: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(lock), str(counter)]
    runs = [subprocess.Popen(command, cwd=paths.checkout()) for _ in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert counter.read_text() == "300"
