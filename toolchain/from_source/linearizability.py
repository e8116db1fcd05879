"""The program that checks histories for linearizability: porcupine and a model of an API object, built when needed."""

import shutil
from pathlib import Path

from toolchain import paths
from toolchain.exclusive import exclusive
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
    program = home / _NAME
    with report.part("checker of linearizability") as part:
        if program.exists():
            part.found()
            return program
        with exclusive(paths.locks() / _NAME, what="building the checker of linearizability", part=part):
            if not program.exists():
                work = paths.scratch() / _NAME
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                gomodule.build(part, PROGRAMS, work, arch=architecture())
                home.parent.mkdir(parents=True, exist_ok=True)
                work.replace(home)
    return program
