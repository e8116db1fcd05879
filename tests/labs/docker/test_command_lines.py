"""Every command line that a container engine is given, read by the engine's own program: it knows each flag.

Docker's is asked with a daemon that is not there: it reads the command line first. podman has no daemon, and reads a
command line before it shows its help.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.lab import Lab, parse
from lab.container_scripts import PREFIX, scripts
from labs.docker.docker_packages import programs
from live.cluster import Cluster, LiveMachine
from live.drills.engine import Engine
from toolchain import node_image, paths
from toolchain.progress import Report
from toolchain.stack import Stack

_UNKNOWN = re.compile(
    r"unknown (shorthand )?flag|unknown command|invalid argument|flag needs|requires (at least|exactly)"
)


def lab(engine: str) -> Lab:
    """The lab dev on an engine."""
    return parse("dev", {"containers": {"engine": engine, "image": "localhost/hardway-node:1"}})


def in_scripts(engine: str) -> Iterator[list[str]]:
    """The command lines in all scripts of the substrate."""
    joined = (
        scripts(lab(engine))
        .replace("\\\n", " ")
        .replace('"$@"', "--volume=/etc/resolv.conf:/etc/hardway/host-resolv.conf:ro")
    )
    joined = joined.replace("as_root $engine", f"as_root {engine}")
    for line in joined.splitlines():
        for found in re.finditer(rf"(?:as_root |env |^    {engine}\) )({engine} .*?)(?=\s*(?:[12]?>|[;|&)]|$))", line):
            yield shlex.split(found[1])


def in_drills(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command lines of drills."""
    asked: list[list[str]] = []
    machine = LiveMachine(name="worker-0", roles=frozenset(), address="10.240.0.20")
    stack = Stack(
        name="dev", project="hardway", settings_file=Path("x"), substrate="containers", engine=engine, kubernetes="1"
    )
    drilled = Engine(Cluster(stack=stack, endpoint="", machines=[machine]))

    def note(self: Engine, *command: str) -> str:
        asked.append(list(command))
        return f"{PREFIX}-worker-0"

    monkeypatch.setattr(Engine, "_run", note)
    drilled.cut_power(machine)
    drilled.start(machine)
    drilled.restart()
    yield from (words for words in asked if words[0] == engine)


def of_the_image(engine: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command lines that have the node image, each way."""
    asked = directory / "asked"
    for name, image in (("podman", "exit 125"), ("docker", "exit 1")):
        said = "echo 'no such image' >&2"
        present = "echo '[{}]'; exit 0" if name != engine else f"{said}; {image}"
        (directory / name).write_text(
            f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >>{asked}\n[ "$1" != image ] || {{ {present}; }}\n'
        )
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setenv("HARDWAY_CACHE", str(directory / "cache"))
    with Report((directory / "report").open("w")) as report:
        node_image.ensure(report, engine)
        (directory / {"podman": "docker", "docker": "podman"}[engine]).unlink()
        monkeypatch.setenv("TOOLCHAIN", "upstream")
        monkeypatch.setenv("PATH", f"{directory}:/nowhere")
        node_image.ensure(report, engine)
    for line in asked.read_text().splitlines():
        words = shlex.split(line)
        if "--file" in words:
            # It is there only while the image is built; docker looks for it before its daemon.
            Path(words[words.index("--file") + 1]).write_text("FROM scratch\n")
        yield words


def complaint(program: str, words: list[str]) -> str:
    """What an engine's program says of a command line that it does not take; nothing where it does."""
    name, *arguments = words
    if name == "podman":
        # After the subcommand: behind a container's name it would be part of the container's command.
        end = next(
            n for n, word in enumerate(arguments, 1) if not word.startswith("-") and arguments[n - 2] != "--runtime"
        )
        end += arguments[end - 1] in ("network", "image")
        done = subprocess.run(
            [program, *arguments[:end], "--help", *arguments[end:]], capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else done.stderr
    nobody = {"DOCKER_HOST": "unix:///nonexistent/docker.sock", "PATH": os.environ["PATH"], "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(
        [program, *arguments], env=nobody, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode != 0, f"{words} did something"
    taken = (
        "Cannot connect to the Docker daemon" in done.stderr or "docker daemon is not running" in done.stderr.lower()
    )
    return "" if taken and not _UNKNOWN.search(done.stderr) else done.stderr


def clients(engine: str) -> list[str]:
    """The programs of an engine: of this distribution; for docker the host's own, too, which may be newer."""
    here = shutil.which(engine)
    assert here or engine == "docker", "set-up installs podman"
    return list(
        dict.fromkeys([*([str(programs() / "docker")] if engine == "docker" else []), *([here] if here else [])])
    )


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_an_engine_takes_every_command_line(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [*in_scripts(engine), *in_drills(engine, monkeypatch)]
    every = clients(engine)
    with monkeypatch.context() as context:
        asked += of_the_image(engine, tmp_path, context)
    asked = [words for words in asked if words[0] == engine]
    # podman's build has an option before its name.
    used = {word for words in asked for word in words[1:4]}
    assert used >= {"create", "cp", "start", "rm", "network", "inspect", "exec", "ps", "kill", "image", "build", "load"}
    for program in every:
        for words in asked:
            # Files that are not there would be an error before the daemon is asked.
            real = [str(paths.checkout() / "toolchain") if "$keys" in word else word for word in words]
            real = [str(paths.checkout() / "Makefile") if word.endswith(".tar") else word for word in real]
            assert complaint(program, real) == "", (program, words)


@pytest.mark.parametrize(
    "words",
    [
        ["docker", "rm", "-f", "-t", "0", "-v", "x"],
        ["docker", "create", "--systemd=false", "image"],
        ["docker", "network", "create", "--disable-dns", "x"],
        ["podman", "rm", "--forced", "x"],
        ["podman", "network", "create", "--gatway", "10.0.0.1", "x"],
        ["podman", "create", "--pids-limit=many", "image"],
    ],
)
def test_a_wrong_command_line_would_be_found(words: list[str]) -> None:
    for program in clients(words[0]):
        assert complaint(program, words) != "", program
