"""What the program's next `up` would write, step by step: the program run without an engine, its inputs from the state.

It is a preview in which each resource that the state has is unchanged. Nothing is made, and no host is contacted.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pulumi
from google.protobuf import struct_pb2
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.stack import run_pulumi_func

from cli import without_engine
from components import step
from config.chapters import VARIABLE
from config.problems import ConfigError
from config.recorded_state import SECRET_KEY
from live.drift import recorded
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_COMMAND = "command:remote:Command"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One step.

    Args:
        component: the type of the outermost component that it belongs to, without "hardway:index:".
        step: as the state would have it. Its script has no files whose content is not known.
        unknown: the paths of these.
    """

    component: str
    step: recorded.Step = field(repr=False)
    unknown: tuple[str, ...]


def plan(stack: Stack, deployment: Mapping[str, Any]) -> list[Planned]:
    """Run the program of a stack, to its end, and return its steps.

    Args:
        stack: which.
        deployment: its state, as `pulumi stack export --show-secrets` prints it.

    Raises:
        ToolchainError: the settings are wrong: with all problems.
    """
    config = without_engine.config_of(stack)
    monitor = _Monitor(deployment)

    async def main() -> list[Planned]:
        with _collected() as made:
            await run_pulumi_func(without_engine.project_program)
        return [await _planned(monitor, name, args) for name, args in made]

    try:
        with _whole_lab():
            return without_engine.run(
                main, monitor, project=stack.project, stack=stack.name, preview=True, config=config
            )
    except (pulumi.RunError, ConfigError) as error:
        raise ToolchainError(str(error)) from None


class _Monitor(without_engine.Monitor):
    """Answers with what the state has; of what it does not have, only the inputs are known."""

    def __init__(self, deployment: Mapping[str, Any]) -> None:
        super().__init__()
        resources = deployment.get("deployment", {}).get("resources", [])
        self._known = {
            (str(each["type"]), str(each["urn"]).rpartition("::")[2]): each
            for each in resources
            if not each.get("delete")
        }
        self._parents: dict[str, tuple[str, str]] = {}
        self._urns: dict[tuple[str, str], str] = {}

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        urn = self.make_urn(request.parent, request.type, request.name)
        self._parents[urn] = (request.type, request.parent)
        self._urns[request.type, request.name] = urn
        answer = struct_pb2.Struct()
        answer.CopyFrom(request.object)
        known = self._known.get((request.type, request.name)) if request.custom else None
        if known is None:
            return resource_pb2.RegisterResourceResponse(urn=urn, object=answer)
        answer.update(in_clear(known.get("outputs", {})))
        return resource_pb2.RegisterResourceResponse(urn=urn, id=str(known.get("id", "")), object=answer)

    def outermost(self, kind: str, name: str) -> tuple[str, str]:
        """The URN of a resource, and the type of the outermost component above it."""
        urn = self._urns[kind, name]
        kind, parent = self._parents[urn]
        while self._parents.get(parent, ("", ""))[0].startswith("hardway:index:"):
            kind, parent = self._parents[parent]
        return urn, kind.removeprefix("hardway:index:")


def in_clear(value: Any) -> Any:
    """A property of the state without the marks of secrets."""
    if isinstance(value, dict):
        if SECRET_KEY in value:
            return in_clear(json.loads(value["plaintext"])) if "plaintext" in value else None
        return {key: in_clear(each) for key, each in value.items()}
    return [in_clear(each) for each in value] if isinstance(value, list) else value


@contextmanager
def _whole_lab() -> Iterator[None]:
    """Without a chapter to end with."""
    before = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before


@contextmanager
def _collected() -> Iterator[list[tuple[str, step.StepArgs]]]:
    """Collect the steps that are made in the `with` block."""
    made: list[tuple[str, step.StepArgs]] = []
    original: Callable[..., None] = step.Step.__init__

    def make(self: step.Step, name: str, args: step.StepArgs, opts: pulumi.ResourceOptions) -> None:
        made.append((name, args))
        original(self, name, args, opts)

    step.Step.__init__ = make  # type: ignore[method-assign]
    try:
        yield made
    finally:
        step.Step.__init__ = original  # type: ignore[method-assign]


async def _planned(monitor: _Monitor, name: str, args: step.StepArgs) -> Planned:
    contents = {file.path: await _known(file.content) for file in args.files}
    script = step.read_by_bash(
        args,
        contents={path: content for path, content in contents.items() if content is not None},
        identity=await _known(args.machine.identity) or "",
        before_start=await _known(args.before_start) or "",
        run=await _known(args.run) or "",
    )
    urn, component = monitor.outermost(_COMMAND, name)
    return Planned(
        component=component,
        step=recorded.Step(urn=urn, machine=args.machine.name, name=args.name, script=script),
        unknown=tuple(path for path, content in contents.items() if content is None),
    )


async def _known(value: pulumi.Input[str]) -> str | None:
    """A value, or None where it is not known before `up`."""
    output = pulumi.Output.from_input(value)
    return await output.future() if await output.is_known() else None
