"""The Pulumi program of a stack, run without an engine: which step writes which file, and where in the source.

It is a preview without providers: what only a provider or a machine can tell stays unknown. Nothing is made, and no
host is contacted.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

import pulumi
from google.protobuf import struct_pb2
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.stack import run_pulumi_func

from cli import without_engine
from components import step
from components.component import Component
from config.problems import ConfigError
from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.stack import Stack


@dataclass(frozen=True, kw_only=True)
class Place:
    """A line of the source.

    Args:
        file: below the checkout.
        line: from 1.
        function: in which it is.
    """

    file: Path
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Made:
    """One file that a step writes on one machine.

    Args:
        path: on the machine.
        kind: file, unit or artifact.
        machine: its name.
        content: what is in it; None where that is not known before `up`, or is not text of the program's.
        mode, owner: of a file; empty for an artifact.
        secret: whether its content is secret.
        places: where the program makes it: the innermost call first, then its callers up to the component.
        step, step_place: the name of the Pulumi resource that writes it, and where that is made.
        component: the class of the component, and where it is.
        component_place: the first line of that class.
    """

    path: str
    kind: str
    machine: str
    content: str | None
    mode: str
    owner: str
    secret: bool
    places: tuple[Place, ...]
    step: str
    step_place: Place
    component: str
    component_place: Place


def record(stack: Stack) -> list[Made]:
    """Run the program of a stack, and return every file that its steps write.

    Raises:
        ToolchainError: the settings are wrong: with all problems.
    """
    config = without_engine.config_of(stack)
    try:
        with _recorded() as made:
            without_engine.run(
                lambda: run_pulumi_func(without_engine.project_program),
                _Monitor(),
                project=stack.project,
                stack=stack.name,
                preview=True,
                config=config,
            )
        return made
    except (pulumi.RunError, ConfigError) as error:
        raise ToolchainError(str(error)) from None


class _Monitor(without_engine.Monitor):
    """Registers everything and knows nothing: without an id and without outputs all of it is unknown in a preview."""

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        urn = self.make_urn(request.parent, request.type, request.name)
        answer = struct_pb2.Struct()
        answer.CopyFrom(request.object)
        return resource_pb2.RegisterResourceResponse(urn=urn, object=answer)


@contextmanager
def _recorded() -> Iterator[list[Made]]:
    """Collect what the steps write that are made in the `with` block."""
    made: list[Made] = []
    # The objects as well: an id is used again once its object is gone.
    places: dict[int, tuple[object, tuple[Place, ...]]] = {}

    def noting(original: Callable[..., None]) -> Callable[..., None]:
        def note(self: object, *args: Any, **given: Any) -> None:
            original(self, *args, **given)
            places[id(self)] = self, _places(sys._getframe(1))

        return note

    def make(self: step.Step, name: str, args: step.StepArgs, opts: pulumi.ResourceOptions) -> None:
        where = _places(sys._getframe(1))
        made.extend(_made(name, args, opts, where, places))
        make_step(self, name, args, opts)

    make_step = step.Step.__init__
    originals: dict[Any, Callable[..., None]] = {kind: kind.__init__ for kind in (step.File, step.Unit, step.Fetch)}
    for kind, original in originals.items():
        kind.__init__ = noting(original)
    step.Step.__init__ = make  # type: ignore[method-assign]
    try:
        yield made
    finally:
        step.Step.__init__ = make_step  # type: ignore[method-assign]
        for kind, original in originals.items():
            kind.__init__ = original


def _made(
    name: str,
    args: step.StepArgs,
    opts: pulumi.ResourceOptions,
    where: tuple[Place, ...],
    places: Mapping[int, tuple[object, tuple[Place, ...]]],
) -> Iterator[Made]:
    component: type = type(opts.parent)
    common: dict[str, Any] = {
        "machine": args.machine.name,
        "step": name,
        "step_place": where[0],
        "component": component.__name__,
        "component_place": _class_place(component),
    }
    for file in args.files:
        content = file.content if isinstance(file.content, str) and not file.secret else None
        yield Made(kind="file", content=content, places=places[id(file)][1], **_attributes(file), **common)
    for unit in args.units:
        attributes = _attributes(step.unit_file(unit))
        yield Made(kind="unit", content=unit.content, places=places[id(unit)][1], **attributes, **common)
    for fetch in args.fetches:
        inside = [str(PurePosixPath(fetch.destination) / PurePosixPath(member).name) for member in fetch.members]
        for path in inside or [fetch.destination]:
            attributes = {"path": path, "mode": "", "owner": "", "secret": False}
            yield Made(kind="artifact", content=None, places=places[id(fetch)][1], **attributes, **common)


def _attributes(file: step.File) -> dict[str, Any]:
    return {"path": file.path, "mode": file.mode, "owner": file.owner, "secret": file.secret}


def _places(frame: FrameType | None) -> tuple[Place, ...]:
    """The callers of the project's own, up to the method of a component."""
    found: list[Place] = []
    while frame is not None:
        if relative := _below(paths.checkout(), frame.f_code.co_filename):
            found.append(Place(file=relative, line=frame.f_lineno, function=frame.f_code.co_name))
            if isinstance(frame.f_locals.get("self"), Component):
                break
        frame = frame.f_back
    return tuple(found)


@cache
def _below(checkout: Path, name: str) -> Path | None:
    """A file of the project's own, below its checkout. The same few are asked for thousands of times."""
    file = Path(name)
    if not file.is_relative_to(checkout) or file.is_relative_to(checkout / ".venv"):
        return None
    return file.relative_to(checkout)


def _class_place(kind: type) -> Place:
    file = Path(inspect.getsourcefile(kind) or "").resolve()
    relative = file.relative_to(paths.checkout()) if file.is_relative_to(paths.checkout()) else file
    return Place(file=relative, line=_class_line(kind), function=kind.__name__)


@cache
def _class_line(kind: type) -> int:
    """The first line of a class. To find it a whole file is parsed."""
    return inspect.getsourcelines(kind)[1]
