"""Commands that refuse a lab with a started lesson, before they change it or ask anything of its machines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import paths
from live import cluster, rotate, search, upgrade
from live.lessons import record
from live.lessons.record import Record
from live.saves import save
from toolchain import stack as stacks
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

COMMANDS: dict[str, Callable[[Stack], Any]] = {
    "A search": lambda stack: search.main(stack, 1),
    "A save": lambda stack: save.save(stack, "before"),
    "A rotation": lambda stack: rotate.rotate(stack, ["leaves"], one_stage=False),
    "An upgrade": lambda stack: upgrade.upgrade(stack, [], preview=False),
}


class AskedError(Exception):
    """The command has come as far as the lab."""


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stack:
    """The stack `dev`, whose files are elsewhere, and whose lab must not be asked."""

    def asked(*_: Any, **__: Any) -> None:
        raise AskedError

    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    monkeypatch.setattr(cluster, "find", asked)
    found = stacks.read("dev")
    found.directory.mkdir(parents=True, exist_ok=True)
    assert found.directory.is_relative_to(tmp_path)
    return found


@pytest.mark.parametrize("what", COMMANDS)
def test_started_lesson_is_refused_with_the_command_that_ends_it(what: str, stack: Stack) -> None:
    record.write(stack, Record(lesson="node-not-ready", phase="started", since="2026-11-29T16:00:00Z"))
    with pytest.raises(ToolchainError, match="lesson node-not-ready") as refused:
        COMMANDS[what](stack)
    assert f"{what} needs a lab without one; nothing was changed" in str(refused.value)
    assert "./hardway lesson reset -s dev" in str(refused.value)


@pytest.mark.parametrize("returning", [False, True])
def test_an_unfinished_upgrade_is_refused_too(stack: Stack, *, returning: bool) -> None:
    record.write(stack, Record(lesson="node-not-ready", phase="started", since="2026-11-29T16:00:00Z"))
    with pytest.raises(ToolchainError, match="An upgrade needs a lab without one"):
        upgrade.resume(stack, returning=returning, preview=False)


def test_a_search_of_a_lab_without_a_lesson_is_not_refused(stack: Stack) -> None:
    with pytest.raises(AskedError):
        search.main(stack, 1)


def test_an_ended_lesson_is_not_refused(stack: Stack) -> None:
    record.write(stack, Record(lesson="node-not-ready", phase="started", since="2026-11-29T16:00:00Z"))
    record.remove(stack)
    with pytest.raises(AskedError):
        search.main(stack, 1)
