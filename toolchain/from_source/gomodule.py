"""Building programs from a Go module of `modules/`, whose go.mod and go.sum pin every source file."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from toolchain import paths
from toolchain.command import ask, run
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import golang
from toolchain.progress import Part, Report


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Some programs of one module."""

    module: str
    """The directory in `modules/`."""
    packages: Mapping[str, str]
    """Name of the program -> Go package with its main function."""
    linked: tuple[str, ...] = ()
    """What the linker gets beside `-s -w`: version stamps, mostly."""
    tags: tuple[str, ...] = ()
    cgo: bool = False

    def recipe(self) -> str:
        """A hash of all that decides what comes out, but for the version of Go."""
        return _recipe(self)


@dataclass(frozen=True, kw_only=True)
class Suites(Programs):
    """Programs of one module, and test binaries."""

    tests: Mapping[str, str]
    """Name of the test binary -> Go package whose tests it has."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that upstream publishes as it stands in the sources."""

    module: str
    """The directory in `modules/`."""
    of: str
    """The path of the required module that has it."""
    path: str
    """Its place in there."""

    def recipe(self) -> str:
        """A hash of all that decides what it says."""
        return _recipe(self)


def _recipe(what: Programs | SourceFile) -> str:
    directory = _directory(what.module)
    recipe = hashlib.sha256(json.dumps(asdict(what), sort_keys=True).encode())
    # A module may have a program of the project's own.
    for file in ("go.mod", "go.sum", *sorted(each.name for each in directory.glob("*.go"))):
        recipe.update((directory / file).read_bytes())
    return recipe.hexdigest()[:12]


def build(part: Part, programs: Programs, destination: Path, *, arch: str) -> None:
    """Build programs into a directory, each under its name; one call compiles what they share once.

    Args:
        part: shows the progress.
        programs: what to build.
        destination: an existing directory.
        arch: amd64 or arm64.

    Raises:
        ToolchainError: the sources cannot be had, or do not compile.
    """
    directory = _directory(programs.module)
    compiled = 0

    def describe(line: str) -> str:
        nonlocal compiled
        if line.startswith("go: downloading "):
            return line.removeprefix("go: ")
        compiled += 1
        return f"compiling: {compiled} packages so far, {line.strip()}"

    options = ("-ldflags", " ".join(("-s", "-w", *programs.linked)), "-tags", ",".join(programs.tags))
    environment = golang.environment(arch=arch, cgo=programs.cgo)
    # go names a program after its package; where two names meet, e.g. two `server`s, they would need two calls.
    run(
        part,
        [
            golang.command(part, needed=_needed(directory)),
            *("build", "-v", "-o", f"{destination}/", *options),
            *programs.packages.values(),
        ],
        directory=directory,
        environment=environment,
        describe=describe,
    )
    for name, package in programs.packages.items():
        (destination / _built_as(package)).replace(destination / name)
    for name, package in programs.tests.items() if isinstance(programs, Suites) else ():
        # Of `go test`, -v is not the compiler's: it says nothing until it is done. Its vet would take longer than all.
        part.say(f"compiling {package}")
        run(
            part,
            [
                golang.command(part, needed=_needed(directory)),
                "test",
                "-vet=off",
                "-c",
                "-o",
                destination / name,
                *options,
                package,
            ],
            directory=directory,
            environment=environment,
            describe=describe,
        )


def have(report: Report, programs: Programs, home: Path, *, title: str, arch: str, note: str = "") -> Path:
    """Have the one program of a module in the cache, built there when it is needed first.

    Args:
        report: shows the progress.
        programs: what to build; one.
        home: its directory, which must be another one for another recipe.
        title: what people call it.
        arch: amd64 or arm64.
        note: what is said before it is built.

    Returns:
        Its path.

    Raises:
        ToolchainError: there is no Go, or the module cannot be had.
    """
    (name,) = programs.packages
    program = home / name
    with report.part(title) as part:
        if program.exists():
            part.found()
            return program
        if note:
            report.note(note)
        with exclusive(paths.locks() / programs.module, what=f"building the {title}", part=part):
            if not program.exists():
                work = paths.scratch() / programs.module
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                build(part, programs, work, arch=arch)
                home.parent.mkdir(parents=True, exist_ok=True)
                work.replace(home)
    return program


def sources(part: Part, module: str, *, of: str) -> Path:
    """The directory with a required module's own files, fetched if need be.

    Args:
        part: shows the progress.
        module: the directory in `modules/`.
        of: the path of the required module, e.g. k8s.io/kubernetes.

    Raises:
        ToolchainError: it cannot be had.
    """
    directory = _directory(module)
    part.say(f"downloading {of}")
    go = golang.command(part, needed=_needed(directory))
    environment = golang.environment(arch="amd64", cgo=False)
    answer = ask(go, "mod", "download", "-json", of, cwd=directory, env=environment)
    if answer.returncode != 0:
        raise ToolchainError(f"The Go module {of} is not available: {(answer.stderr or answer.stdout).strip()}")
    return Path(json.loads(answer.stdout)["Dir"])


def _directory(module: str) -> Path:
    directory = paths.modules() / module
    if not (directory / "go.mod").exists():
        raise ToolchainError(
            f"{module} cannot be built from source: there is no toolchain/from_source/modules/{module}. "
            "Take a version that has one, or run where official releases can be reached."
        )
    return directory


def _needed(directory: Path) -> str:
    found = re.search(r"^go (\S+)$", (directory / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise ToolchainError(f"{directory}/go.mod has no `go` line; add one.")
    return found[1]


def _built_as(package: str) -> str:
    last = PurePosixPath(package)
    return last.parent.name if re.fullmatch(r"v\d+", last.name) else last.name
