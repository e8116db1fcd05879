"""Runs one Pulumi program in the process of the language host, as `python __main__.py` would.

Source: `sdk/python/cmd/pulumi-language-python-exec` in Pulumi 3.259.0.
"""

import asyncio
import logging
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pulumi
from pulumi.runtime.proto import language_pb2


def run(request: language_pb2.RunRequest, engine: str, arguments: Sequence[str]) -> language_pb2.RunResponse:
    """Run one program to its end. What goes wrong is shown once, and `bail` keeps the engine from repeating it.

    Args:
        request: what the engine says of it.
        engine: the engine's address.
        arguments: of the program.
    """
    program = Path(request.info.program_directory or request.pwd, request.info.entry_point or request.program)
    if program.is_dir():
        program /= "__main__.py"
    _configure(request, engine)
    os.chdir(request.pwd)
    # As Python has it when it starts a program itself. In front is the checkout that this module came from.
    sys.path[0] = str(program.parent)
    sys.argv = [str(program), *arguments]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(max(request.parallel, 1) * 4)
    loop.set_default_executor(executor)
    # Futures without a waiter are Pulumi's way of ending a program that failed.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        if not program.exists():
            raise pulumi.RunError(f"unable to find the main Python program {program}")
        loop.run_until_complete(pulumi.runtime.run_in_stack(lambda: _as_main(program)))
        return language_pb2.RunResponse()
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
    except SystemExit as end:
        if not end.code:
            return language_pb2.RunResponse()
        if not isinstance(end.code, str):
            return language_pb2.RunResponse(error=f"program exited with non-zero exit code: {end.code}")
        pulumi.log.error(end.code)
    except Exception as error:
        pulumi.log.error(f"Program failed with an unhandled exception:\n{_traceback(error, program)}")
    finally:
        executor.shutdown(wait=True)
        loop.close()
        sys.stdout.flush()
        sys.stderr.flush()
    return language_pb2.RunResponse(bail=True)


def _as_main(program: Path) -> None:
    runpy.run_path(str(program), run_name="__main__")


def _configure(request: language_pb2.RunRequest, engine: str) -> None:
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            monitor=request.monitor_address,
            engine=engine,
            project=request.project,
            stack=request.stack,
            parallel=request.parallel,
            dry_run=request.dryRun,
            organization=request.organization or "organization",
            root_directory=request.info.root_directory,
        )
    )
    pulumi.runtime.set_all_config(dict(request.config), list(request.configSecretKeys))


def _traceback(error: Exception, program: Path) -> str:
    """The traceback from the program's first line on; all of it when the program is not in it."""
    frames = traceback.extract_tb(error.__traceback__)
    start = next((index for index, frame in enumerate(frames) if Path(frame.filename) == program), 0)
    return "".join(traceback.format_exception(error, limit=start - len(frames)))
