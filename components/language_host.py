"""What the program does that the Python language host, or the SDK, leaves to it.

`end_quietly_when_cancelled`: how it ends when the official language host stops it. The engine
cancels the language host when a resource has failed, and the host then sends SIGINT to the program. Python answers that
with tracebacks of KeyboardInterrupt, below the error that the engine has already shown.
Source: `sdk/python/cmd/pulumi-language-python` in Pulumi 3.259.0: `main.go` (Run), and the script `-exec` beside it.
"""

import asyncio
import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType, NoneType
from typing import Any

import pulumi
from pulumi.runtime.proto import source_pb2
from pulumi.runtime.settings import SETTINGS
from pulumi.runtime.stack import ResourceRegistrationFailed

_PROJECT = Path(__file__).parents[1]
_OFFICIAL = "pulumi-language-python-exec"
# By this exit status the official host recognises a program whose error has been shown.
_ALREADY_SHOWN = 32


def end_quietly_when_cancelled() -> None:
    """End the program at SIGINT with the status "already shown", where the official language host runs it.

    Any other host keeps Python's way: the stand-in runs the program in its own process and answers SIGINT itself.
    """
    if any(Path(argument).name == _OFFICIAL for argument in sys.orig_argv):
        signal.signal(signal.SIGINT, _end)


def collect_garbage_rarely() -> None:
    """Look for unreachable cycles of objects once for each 100,000 objects that are created, and not for each 700.

    A program creates outputs and tasks by the ten thousand, and they live until it ends: to look through all of them
    again and again took a tenth of its time.
    """
    gc.set_threshold(100_000)


def send_no_debug_messages() -> None:
    """Do not tell the engine of each step of each registration.

    The SDK sends three messages for each resource, one after the other, and waits for each answer. Only `pulumi up
    --debug` shows them. They were a sixth of the program's time.
    """
    pulumi.log.debug = _nothing


def send_short_stack_traces() -> None:
    """Tell the engine of each resource only the lines of this project that led to it.

    The SDK also sends those of Python and of itself, which lead to every resource, and Pulumi keeps all of them. They
    were a fifth of the state, which the engine writes some 300 times in an `up`.
    """
    pulumi.runtime.resource._get_stack_trace = _own_frames


def _own_frames() -> source_pb2.StackTrace:
    """The lines from the constructor of a resource to the program's first, the innermost first.

    The constructors are, as the SDK counts them: that of Resource, of CustomResource or ComponentResource, and of the
    resource itself.
    """
    frame: FrameType | None = sys._getframe(1)
    constructors = 0
    while frame is not None and constructors < 3:
        constructors += frame.f_code.co_name == "__init__"
        frame = frame.f_back
    frames = []
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(_PROJECT):
            position = source_pb2.SourcePosition(uri=Path(frame.f_code.co_filename).as_uri(), line=frame.f_lineno)
            frames.append(source_pb2.StackFrame(pc=position))
        if frame.f_globals.get("__name__") == "__main__":
            break
        frame = frame.f_back
    return source_pb2.StackTrace(frames=frames)


def wait_for_many() -> None:
    """Wait for the program's outputs with a time that grows as their number does.

    Whenever one of them has its value, the SDK begins to wait for all others again: twice the machines took four times
    as long. Here one wait is for all that are known, and it ends sooner only if one fails. The SDK does the rest.
    """
    pulumi.runtime.stack.wait_for_rpcs = _wait


_sdk_wait = pulumi.runtime.stack.wait_for_rpcs
# Outputs that have come meanwhile are looked at so often: if one of these fails, the program ends no later.
_LOOK_SECONDS = 1.0


async def _wait(await_all_outstanding_tasks: bool = True) -> None:
    while await_all_outstanding_tasks:
        with SETTINGS.lock:
            known = list(SETTINGS.outputs)
        for each in known:
            if each.done() and _has_failed(each):
                # As the SDK does: this raises its error, and the program ends. Calls of the engine may still go on.
                await each
        waiting = [each for each in known if not each.done()]
        if not waiting:
            break
        await asyncio.wait(waiting, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
    await _sdk_wait(await_all_outstanding_tasks)


def _has_failed(ended: "asyncio.Future[Any]") -> bool:
    # The engine has reported a resource that it could not make, and the program goes on without it.
    return ended.cancelled() or not isinstance(ended.exception(), NoneType | ResourceRegistrationFailed)


def _nothing(*_arguments: Any, **_named: Any) -> None:
    pass


def _end(_number: int, _frame: FrameType | None) -> None:
    for stream in (sys.stdout, sys.stderr):
        # The signal may have come in the middle of a write to it (RuntimeError), or nobody reads it any more.
        with suppress(RuntimeError, OSError):
            stream.flush()
    # Not sys.exit: the event loop would report the tasks that wait for the engine's answers.
    os._exit(_ALREADY_SHOWN)
