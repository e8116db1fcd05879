"""A container engine that has a directory for each container, and notes what it is asked."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from live.cluster import Cluster
from live.containers import Containers

# By their names or ids: `<name>` and `id-<name>`. What fails is named in FAILS: "start hardway-paper-worker-0".
_ENGINE = """#!/bin/bash
here=$(dirname "$0")/containers
echo "$*" >>"$(dirname "$0")/engine.log"
names=() command=$1
for word; do [ ! -d "$here/${word#id-}" ] || names+=("${word#id-}"); done
case " $FAILS " in *" $command ${names[0]} "*) echo "no $command today" >&2; exit 125 ;; esac
status() { for name in "${names[@]}"; do echo "$1" >"$here/$name/status"; done; }
case $command in
  ps) ls "$here" ;;
  container)
    said=()
    for name in "${names[@]}"; do
      said+=("$(sed "s/STATUS/$(cat "$here/$name/status")/" "$here/$name/described")")
    done
    (IFS=,; echo "[${said[*]}]")
    ;;
  stop) status exited ;;
  start | unpause) status running ;;
  pause) status paused ;;
esac
"""


class FakeEngine:
    """The engine of one lab.

    Args:
        directory: of its program; first in PATH.
        lab: whose containers it has.
    """

    def __init__(self, directory: Path, lab: Cluster) -> None:
        self._directory = directory
        self._prefix = f"hardway-{lab.stack.name}"
        directory.mkdir(parents=True, exist_ok=True)
        program = directory / lab.stack.engine
        program.write_text(_ENGINE)
        program.chmod(0o755)
        for machine in lab.machines:
            self.create(machine.name)

    def create(self, machine: str) -> None:
        """Have a container that runs."""
        name = f"{self._prefix}-{machine}"
        place = self._directory / "containers" / name
        upper, volume = place / "diff", place / "volume"
        upper.mkdir(parents=True)
        volume.mkdir()
        described = {
            "Id": f"id-{name}",
            "Name": name,
            "Image": "the-image",
            "State": {"Status": "STATUS"},
            "GraphDriver": {"Name": "overlay", "Data": {"UpperDir": str(upper)}},
            "Mounts": [
                {"Type": "bind", "Source": "/mirror", "Destination": "/opt/mirror"},
                {"Type": "volume", "Source": str(volume), "Destination": "/var/lib/containerd"},
            ],
        }
        (place / "described").write_text(json.dumps(described))
        (place / "status").write_text("running\n")

    def upper(self, machine: str) -> Path:
        """The directory with a machine's disk."""
        return self._directory / "containers" / f"{self._prefix}-{machine}" / "diff"

    def volume(self, machine: str) -> Path:
        """The directory with a machine's volume."""
        return self.upper(machine).with_name("volume")

    def describe(self, machine: str, **changes: object) -> None:
        """Have the engine say something else of a container."""
        file = self.upper(machine).with_name("described")
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    def statuses(self) -> set[str]:
        """Of all containers."""
        return {file.read_text().strip() for file in (self._directory / "containers").glob("*/status")}

    @property
    def asked(self) -> list[str]:
        """The command lines."""
        log = self._directory / "engine.log"
        return log.read_text().splitlines() if log.exists() else []

    def changes(self) -> list[str]:
        """Those that change something."""
        return [line for line in self.asked if line.split()[0] not in ("ps", "container")]


def installed(directory: Path, lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine of a lab, first in PATH; the host has no systemd, and the key of the lab is its own."""
    engine = FakeEngine(directory, lab)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("live.containers._SYSTEMD", directory / "no-systemd")
    monkeypatch.setattr("toolchain.whose.check_own", lambda stack: None)
    monkeypatch.setattr(Containers, "_host_boot", _nothing)
    return engine


def _nothing(self: Containers, words: Sequence[str]) -> None:
    """Neither modules, nor rules, nor routes."""
