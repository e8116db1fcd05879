"""How the program waits for its outputs: once for all of them, and no longer than the SDK where one has failed."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pulumi.runtime.settings import SETTINGS
from pulumi.runtime.stack import ResourceRegistrationFailed

from components import language_host


class Waited:
    """The SDK's outputs, and what its own waiting finds when its turn comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outputs: set[asyncio.Future[Any]] = set()
        self.left: list[asyncio.Future[Any]] | None = None
        settings = SimpleNamespace(outputs=self.outputs, lock=SETTINGS.lock)
        monkeypatch.setattr(language_host, "SETTINGS", settings)
        monkeypatch.setattr(language_host, "_sdk_wait", self._sdk_wait)
        monkeypatch.setattr(language_host, "_LOOK_SECONDS", 0.05)

    async def _sdk_wait(self, _: bool) -> None:
        self.left = [each for each in self.outputs if not each.done()]

    def future(self) -> "asyncio.Future[Any]":
        made = asyncio.get_running_loop().create_future()
        self.outputs.add(made)
        return made

    def run(self, program: Callable[["asyncio.Task[None]"], Awaitable[None]]) -> None:
        async def both() -> None:
            waiting = asyncio.ensure_future(language_host._wait())
            await program(waiting)
            await asyncio.wait_for(waiting, 10)

        contextvars.copy_context().run(asyncio.run, both())


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> Waited:
    return Waited(monkeypatch)


def test_all_outputs_are_waited_for_and_those_that_come_meanwhile(waited: Waited) -> None:
    async def program(waiting: "asyncio.Task[None]") -> None:
        first, second = waited.future(), waited.future()
        await asyncio.sleep(0)
        first.set_result(1)
        later = waited.future()
        second.set_result(2)
        await asyncio.sleep(0.2)
        assert not waiting.done() and waited.left is None
        later.set_result(3)

    waited.run(program)
    assert waited.left == []


@pytest.mark.parametrize("meanwhile", [False, True], ids=["known", "came meanwhile"])
def test_a_failure_ends_the_wait_while_others_have_no_value(waited: Waited, meanwhile: bool) -> None:
    async def program(_: "asyncio.Task[None]") -> None:
        # This one never has a value.
        waited.future()
        known = None if meanwhile else waited.future()
        await asyncio.sleep(0)
        (known or waited.future()).set_exception(ValueError("an apply failed"))

    with pytest.raises(ValueError, match="an apply failed"):
        waited.run(program)
    assert waited.left is None


def test_a_resource_that_the_engine_could_not_make_does_not_end_the_wait(waited: Waited) -> None:
    async def program(waiting: "asyncio.Task[None]") -> None:
        failed, other = waited.future(), waited.future()
        await asyncio.sleep(0)
        failed.set_exception(ResourceRegistrationFailed())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        other.set_result(1)

    waited.run(program)
    assert waited.left == []
