"""The checker of linearizability is built when a seeded drill needs it, once, and for nobody else."""

import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.from_source import gomodule, linearizability
from toolchain.from_source.gomodule import Programs
from toolchain.progress import Part, Report


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where it was built; nothing is compiled."""
    for name in ("cache", "locks", "scratch"):
        monkeypatch.setattr(paths, name, lambda name=name: tmp_path / name)
    done: list[Path] = []

    def build(_: Part, programs: Programs, destination: Path, *, arch: str) -> None:
        done.append(destination)
        (destination / next(iter(programs.packages))).write_text(arch)

    monkeypatch.setattr(gomodule, "build", build)
    return done


def test_it_is_built_once(builds: list[Path], report: Report) -> None:
    first = linearizability.ensure(report)
    assert first.exists()
    assert linearizability.ensure(report) == first
    assert len(builds) == 1


def test_a_build_that_failed_is_not_taken_for_one(
    builds: list[Path], report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gomodule.build

    def fail(_: Part, programs: Programs, destination: Path, *, arch: str) -> None:
        (destination / next(iter(programs.packages))).write_text("half")
        raise ToolchainError("no network")

    monkeypatch.setattr(gomodule, "build", fail)
    with pytest.raises(ToolchainError, match="no network"):
        linearizability.ensure(report)
    monkeypatch.setattr(gomodule, "build", right)
    assert linearizability.ensure(report).read_text() != "half"


def test_no_other_command_has_it() -> None:
    """`./hardway setup` and `./hardway up`, and `./hardway status`: they load nothing that could build it."""
    code = "import cli.main, sys; print('toolchain.from_source.linearizability' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.checkout(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "False\n", done.stderr
