"""The labs that can be measured: by which stack the program makes each, and the bars that were set for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.figures import Bar
from config.lab import PROJECT
from toolchain import paths


@dataclass(frozen=True, kw_only=True)
class MeasuredLab:
    """A lab that is made in both ways.

    Args:
        name: as `--lab` takes it.
        stack: by which the program makes it; plain shell makes as many machines of each role.
        script: by which plain shell makes it.
        bars: figure (see figures.py) -> what the program has to reach.
        grows: whether a worker is added to it, once it stands.
    """

    name: str
    stack: str
    bars: Mapping[str, Bar]
    script: str = "plain_shell.sh"
    grows: bool = False

    @property
    def settings_file(self) -> Path:
        """Pulumi.<stack>.yaml."""
        return paths.settings_file(self.stack)

    @property
    def settings(self) -> dict[str, Any]:
        """The `lab` of its stack, as it stands in the settings file."""
        settings: dict[str, Any] = yaml.safe_load(self.settings_file.read_text())["config"][f"{PROJECT}:lab"]
        return settings


_ALWAYS = {
    "ratio to plain shell": Bar(limit=1.1, inclusive=True),
    "second up": Bar(limit=2.5, inclusive=False),
    "second up, changes": Bar(limit=0, inclusive=True),
    "preview": Bar(limit=2.5, inclusive=False),
    "destroy": Bar(limit=5, inclusive=False),
    "memory, of plain shell": Bar(limit=1.05, inclusive=True),
}

LABS = {
    lab.name: lab
    for lab in (
        MeasuredLab(name="dev", stack="bench", bars=_ALWAYS),
        MeasuredLab(
            name="ha",
            stack="bench-ha",
            bars=_ALWAYS | {"one more worker, of the first up": Bar(limit=0.25, inclusive=True)},
            grows=True,
        ),
        MeasuredLab(name="kubeadm", stack="bench-kubeadm", script="plain_kubeadm.sh", bars=_ALWAYS),
    )
}
"""By their names, which are those of the stacks that they are like."""
