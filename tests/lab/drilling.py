"""Drills as a person runs them, and what each must come to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.commands import Ran, Started
from lab.session import Show


def drill(*arguments: str, stack: str, show: Show) -> Started:
    """`hardway drill`, begun."""
    return Started("drill", *arguments, show=show, stack=stack)


def search(*arguments: str, stack: str, show: Show) -> Started:
    """`hardway search`, begun."""
    return Started("search", *arguments, show=show, stack=stack)


def figures_of(names: Sequence[str], *, stack: str, show: Show, directory: Path) -> tuple[Ran, dict[str, Any]]:
    """Do drills: how the command ended, and its JSON."""
    file = directory / "figures.json"
    ran = drill(*names, "--json", str(file), stack=stack, show=show).wait(seconds=15 * 60)
    return ran, json.loads(file.read_text())


def assert_within_its_bars(document: dict[str, Any], name: str) -> None:
    """Every bar met, something measured, much written and nothing of it missing."""
    done = next(each for each in document["drills"] if each["name"] == name)
    assert [each["what"] for each in done["results"] if each["met"] is False] == []
    assert any(each["met"] for each in done["results"])
    assert done["lost"] == {"API writer": [], "etcd writer": []}
    assert min(done["acknowledged"].values()) > 10
    assert done["passed"], done["failure"]
