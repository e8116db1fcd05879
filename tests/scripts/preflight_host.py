"""A host for a preflight: programs that give the answers of a test, first and alone in PATH."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_PROGRAM = """#!{python}
import json, pathlib, sys
answers = json.loads(pathlib.Path(__file__).with_name("answers.json").read_text())
name, *words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
said = answers.get(" ".join([name, *words]), answers.get(name, [1, "", "unexpected: " + " ".join(sys.argv)]))
sys.stdout.write(said[1]); sys.stderr.write(said[2]); sys.exit(said[0])
"""


def problems(
    preflight: Path, arguments: Sequence[str], tools: Path, programs: Iterable[str], answers: Mapping[str, Any]
) -> tuple[list[str], str]:
    """Run a preflight.

    Args:
        preflight: the program.
        arguments: its options.
        tools: the directory of the programs, for this run.
        programs: the names of those that are there.
        answers: command line, or name of a program -> its exit status, standard output and standard error.

    Returns:
        The numbered problems, without their numbers, and its standard output.
    """
    (tools / "answers.json").write_text(json.dumps(answers))
    for name in programs:
        (tools / name).write_text(_PROGRAM.format(python=sys.executable))
        (tools / name).chmod(0o755)
    result = subprocess.run(
        [sys.executable, str(preflight), *arguments],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line.strip() for line in result.stderr.splitlines()]
    assert result.returncode == (1 if lines else 0)
    if lines:
        assert lines[0] == "The preflight failed; nothing was changed."
        assert [line.split(". ")[0] for line in lines[1:]] == [str(number) for number in range(1, len(lines))]
    return [line.split(". ", 1)[1] for line in lines[1:]], result.stdout
