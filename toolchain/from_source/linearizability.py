"""The program that checks histories for linearizability: porcupine and a model of an API object, built when needed."""

from pathlib import Path

from toolchain import paths
from toolchain.from_source import gomodule
from toolchain.from_source.gomodule import Programs
from toolchain.progress import Report
from toolchain.versions import architecture

_NAME = "linearizability"
PROGRAMS = Programs(module=_NAME, packages={_NAME: f"hardway/toolchain/{_NAME}"})


def ensure(report: Report) -> Path:
    """Have the program in the cache.

    Porcupine has no releases, only its Go module; building takes seconds, so that it is not part of the set-up of a
    lab: only a seeded drill and its tests need it.

    Returns:
        Its path.

    Raises:
        ToolchainError: there is no Go, or the module cannot be had.
    """
    home = paths.cache() / "checkers" / PROGRAMS.recipe()
    return gomodule.have(report, PROGRAMS, home, title="checker of linearizability", arch=architecture())
