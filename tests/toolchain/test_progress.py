import io
import re
import sys
import threading
import time

import pytest

from toolchain import progress
from toolchain.command import run
from toolchain.errors import ToolchainError
from toolchain.moving_lines import MovingLines
from toolchain.progress import CancelledError, Report


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is timed goes a hundred times faster."""
    for name in ("_FIRST_LINE_AFTER", "_NEXT_LINE_AFTER", "_LOOK_EVERY"):
        monkeypatch.setattr(progress, name, getattr(progress, name) / 100)


def until_said(said: io.StringIO, word: str, times: int = 1) -> None:
    deadline = time.monotonic() + 10
    while said.getvalue().count(word) < times:
        assert time.monotonic() < deadline, said.getvalue()
        time.sleep(0.01)


def test_long_work_keeps_saying_how_far_it_is(quick: None, report: Report, said: io.StringIO) -> None:
    with report.part("kubelet") as part:
        part.say("downloading")
        part.advance(21_000_000, 84_000_000)
        until_said(said, "kubelet: downloading 21.0 of 84.0 MB (25 %), ", times=3)


def test_a_whole_is_silent_while_its_parts_speak(quick: None, report: Report, said: io.StringIO) -> None:
    with report.part("artifacts") as whole, report.part("kubelet", of=whole):
        until_said(said, "kubelet: working", times=3)
    assert "artifacts: working" not in said.getvalue()


def test_a_line_at_least_every_half_minute() -> None:
    assert progress._FIRST_LINE_AFTER <= 30
    assert progress._NEXT_LINE_AFTER + progress._LOOK_EVERY <= 30


def test_the_end_says_how_it_went(said: io.StringIO) -> None:
    with pytest.raises(ToolchainError), Report(said) as report:
        with report.part("podman") as part:
            part.found()
        with report.part("etcd"):
            pass
        with report.part("runc"):
            raise ToolchainError("no")
    lines = [line.partition("] ")[2] for line in said.getvalue().splitlines()]
    assert lines == ["podman: already there", "etcd: done in 0.0 s", "runc: failed after 0.0 s"]


def test_the_summary_has_the_seconds_of_what_was_done(said: io.StringIO) -> None:
    with Report(said) as report:
        with report.part("podman") as part:
            part.found()
        with report.part("artifacts") as whole, report.part("etcd", of=whole):
            pass
    summary = said.getvalue().partition("What took how long:\n")[2].splitlines()
    assert [re.sub(r"^ +\d+\.\d s  ", "", line) for line in summary] == ["artifacts", "  etcd"]


def test_giving_up_ends_what_runs_in_threads(report: Report) -> None:
    ended = threading.Event()

    def work() -> None:
        with pytest.raises(CancelledError), report.part("kubelet") as part:
            while True:
                part.advance(1, 2)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    report.cancel()
    assert ended.wait(timeout=10)
    thread.join()


def test_a_command_s_talk_is_shown_and_its_end_checked(report: Report) -> None:
    with report.part("etcd") as part:
        run(part, ["sh", "-c", "echo one; echo two >&2"], describe=str.upper)
        assert part.doing == "TWO"
        with pytest.raises(ToolchainError, match=r"status 3.*\n  what went wrong"):
            run(part, ["sh", "-c", "echo what went wrong; exit 3"])
        with pytest.raises(ToolchainError, match="no-such-program is not installed"):
            run(part, ["no-such-program"])


def test_a_terminal_gets_moving_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with Report() as report, report.part("kubelet [bold]") as part:
        part.say("downloading")
        assert isinstance(report._display, MovingLines)
    assert "kubelet [bold]: done in 0.0 s" in capsys.readouterr().out
