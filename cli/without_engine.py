"""A Pulumi program without an engine: what it registers goes to a monitor in this process.

Nothing is made, and no host is contacted. `./hardway explain` and the unit tests run the program so, each with its own
monitor.
"""

import asyncio
import contextvars
import json
import runpy
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pulumi
from pulumi.runtime import mocks, settings

from config import settings_file
from toolchain import paths
from toolchain.stack import Stack

_T = TypeVar("_T")


class Monitor(mocks.MockMonitor):
    """The engine's side. A subclass answers registrations by itself: it needs options that a mock does not get."""

    def __init__(self) -> None:
        super().__init__(_NoMocks())


def run(
    main: Callable[[], Awaitable[_T]],
    monitor: Monitor,
    *,
    project: str,
    stack: str,
    preview: bool,
    config: Mapping[str, str],
    executor: ThreadPoolExecutor | None = None,
) -> _T:
    """Run a program, each time in a context of its own.

    Args:
        main: runs it, by `run_pulumi_func`; what it returns is returned.
        monitor: answers what the program registers.
        project, stack: their names.
        preview: whether what is not known before an update stays unknown.
        config: key -> value, of the stack.
        executor: of the event loop; threads if not given.
    """

    def in_context() -> _T:
        loop = asyncio.new_event_loop()
        if executor is not None:
            loop.set_default_executor(executor)
        asyncio.set_event_loop(loop)
        try:
            _set_root(None)
            pulumi.runtime.set_all_config(dict(config))
            mocks.set_mocks(_NoMocks(), project=project, stack=stack, preview=preview, monitor=monitor)
            settings.SETTINGS.callbacks = _Callbacks()
            return loop.run_until_complete(main())
        finally:
            _set_root(None)
            loop.close()
            asyncio.set_event_loop(None)

    return contextvars.copy_context().run(in_context)


def config_of(stack: Stack) -> dict[str, str]:
    """The configuration of a stack of the project, as `run` takes it.

    Raises:
        UserError: the settings file cannot be read.
    """
    lab = settings_file.lab_of(stack.settings_file, stack.project)
    config = {"gcp:project": stack.gcp_project or "a-project", f"{stack.project}:lab": json.dumps(lab or {})}
    if rotated := settings_file.rotations_of(stack.settings_file, stack.project):
        config[f"{stack.project}:rotations"] = json.dumps(rotated)
    return config


def project_program() -> None:
    """The project's own program."""
    runpy.run_path(str(paths.checkout() / "__main__.py"), run_name="__main__")


def _set_root(root: None) -> None:
    settings.set_root_resource(root)  # type: ignore[arg-type]


class _NoMocks(mocks.Mocks):
    """The monitor answers by itself."""

    def call(self, args: mocks.MockCallArgs) -> Any:
        raise AssertionError(f"the program calls {args.token}")

    def new_resource(self, args: mocks.MockResourceArgs) -> Any:
        raise AssertionError(f"the monitor answers for {args.name}")


class _Callbacks:
    """Takes what an engine would call during updates: none takes place."""

    def register_resource_hook(self, hook: pulumi.ResourceHook) -> None:
        pass
