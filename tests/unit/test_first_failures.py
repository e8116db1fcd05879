"""What a run of the tests prints at its very end."""

import os
import subprocess
import sys
from pathlib import Path

from first_failures import LINES

_TESTS = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_many_lines(number):
    assert not number, "\\n".join(f"test {number} line {each}." for each in range(100))
"""


def test_the_first_failures_have_the_last_word(tmp_path: Path) -> None:
    """A later failure instead of the first one; a summary after it; a run of several processes that prints it twice."""
    (tmp_path / "test_it.py").write_text(_TESTS)
    for options in ((), ("-p", "xdist", "-n", "1")):
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "first_failures", *options, "."],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "CI": "true"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 1
        summary, *texts = ran.stdout.split("the last lines of ")
        assert "3 failed, 1 passed" in summary
        assert [text.partition(":\n")[0] for text in texts] == [f"test_it.py::test_many_lines[{n}]" for n in (1, 2)]
        for number, text in enumerate(texts, start=1):
            lines = [line for line in text.splitlines() if "line" in line]
            assert len(lines) <= LINES and f"test {number} line 99." in text and f"test {number} line 50." not in text
