"""How the program ends when a language host cancels it: each host as a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[2]
# As the official host's script has it: the program runs inside of an event loop, and `finally` waits.
_HOST = """
import asyncio, runpy, sys
async def run():
    runpy.run_path(sys.argv[1], run_name="__main__")
    await asyncio.sleep(60)
asyncio.new_event_loop().run_until_complete(run())
"""
_PROGRAM = """
import sys
from components import language_host
language_host.end_quietly_when_cancelled()
print("not flushed yet", end="")
print("running", file=sys.stderr, flush=True)
"""


def _cancelled(tmp_path: Path, host: str) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a program that the host has run and sent SIGINT."""
    (tmp_path / host).write_text(_HOST)
    (tmp_path / "__main__.py").write_text(_PROGRAM)
    process = subprocess.Popen(
        [sys.executable, tmp_path / host, tmp_path / "__main__.py"],
        env=os.environ | {"PYTHONPATH": str(_CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores SIGINT, and so does all that it starts: perhaps these tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors


def test_the_official_host_sees_a_program_that_has_shown_its_error(tmp_path: Path) -> None:
    assert _cancelled(tmp_path, "pulumi-language-python-exec") == (32, "not flushed yet", "")


@pytest.mark.parametrize("host", ["another-host", "pulumi-language-python"])
def test_any_other_host_sees_python_s_own_way(tmp_path: Path, host: str) -> None:
    status, _, errors = _cancelled(tmp_path, host)
    assert status == -signal.SIGINT and "KeyboardInterrupt" in errors


def test_the_program_asks_for_it_before_it_builds_anything() -> None:
    text = (_CHECKOUT / "__main__.py").read_text()
    assert text.index("language_host.end_quietly_when_cancelled()") < text.index("build(config.load())")


_OBJECTS = """
import gc
from components import language_host
language_host.collect_garbage_rarely()
before = sum(each["collections"] for each in gc.get_stats())
kept = [[] for _ in range(50_000)]
print(sum(each["collections"] for each in gc.get_stats()) - before)
"""


def test_objects_that_a_program_keeps_are_not_looked_through_again_and_again() -> None:
    """As a process of its own: the setting is the whole interpreter's."""
    done = subprocess.run([sys.executable, "-c", _OBJECTS], cwd=_CHECKOUT, stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) <= 1
    assert "language_host.collect_garbage_rarely()" in (_CHECKOUT / "__main__.py").read_text()
