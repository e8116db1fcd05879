"""Stand-in for the Python language host: runs a program in its own process, as `python __main__.py` would.

Source: `sdk/python/cmd/pulumi-language-python-exec` in Pulumi 3.259.0.
"""

# ruff: noqa: N802 -- the protocol names the methods of the service.

import asyncio
import importlib.metadata
import io
import logging
import os
import queue
import runpy
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pulumi
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

from toolchain.from_source.standins import plugin, policy_pack


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """Answers the engine. Programs wait in a queue for the main thread, where a program expects to be."""

    def __init__(self) -> None:
        self._programs: queue.SimpleQueue[tuple[Any, Future[Any]]] = queue.SimpleQueue()

    def run_program(self) -> None:
        """Wait for the next program that the engine asks for, and run it."""
        request, answer = self._programs.get()
        answer.set_result(_run(request))

    def Run(self, request: language_pb2.RunRequest, context: Any) -> language_pb2.RunResponse:
        answer: Future[language_pb2.RunResponse] = Future()
        self._programs.put((request, answer))
        return answer.result()

    def Handshake(self, request: Any, context: Any) -> language_pb2.LanguageHandshakeResponse:
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=importlib.metadata.version("pulumi"))

    def About(self, request: Any, context: Any) -> language_pb2.AboutResponse:
        version = ".".join(map(str, sys.version_info[:3]))
        return language_pb2.AboutResponse(executable=sys.executable, version=version)

    def GetRequiredPackages(self, request: Any, context: Any) -> language_pb2.GetRequiredPackagesResponse:
        return language_pb2.GetRequiredPackagesResponse()

    def GetRequiredPlugins(self, request: Any, context: Any) -> language_pb2.GetRequiredPluginsResponse:
        return language_pb2.GetRequiredPluginsResponse()

    def GetProgramDependencies(self, request: Any, context: Any) -> Any:
        installed = {found.name: found.version for found in importlib.metadata.distributions()}
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[
                language_pb2.DependencyInfo(name=name, version=version) for name, version in sorted(installed.items())
            ]
        )

    def InstallDependencies(self, request: Any, context: Any) -> Iterator[Any]:
        yield language_pb2.InstallDependenciesResponse(stdout=f"The program runs in {sys.prefix}, as it is.\n".encode())

    def RunPlugin(self, request: Any, context: Any) -> Iterator[Any]:
        """Run a policy pack. No other plugin of the lab is a Python program that the engine starts in this way."""
        if request.kind != "analyzer":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"This language host runs no plugin of kind {request.kind}.")
        yield from policy_pack.run(request, context)

    def RuntimeOptionsPrompts(self, request: Any, context: Any) -> language_pb2.RuntimeOptionsResponse:
        return language_pb2.RuntimeOptionsResponse()

    def Cancel(self, request: Any, context: Any) -> Empty:
        return Empty()


def _run(request: language_pb2.RunRequest) -> language_pb2.RunResponse:
    """Run one program to its end. What goes wrong is shown once, and `bail` keeps the engine from repeating it."""
    program = Path(request.info.program_directory or request.pwd, request.info.entry_point or request.program)
    if program.is_dir():
        program /= "__main__.py"
    _configure(request)
    os.chdir(request.pwd)
    # As Python has it when it starts a program itself. In front is the checkout that this module came from.
    sys.path[0] = str(program.parent)
    sys.argv = [str(program), *request.args]
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


def _configure(request: language_pb2.RunRequest) -> None:
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            monitor=request.monitor_address,
            engine=sys.argv[-1],
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


def main() -> None:
    """Run the plugin; the engine's address is the last argument."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The engine shows what a program prints line by line.
        sys.stdout.reconfigure(line_buffering=True)
    host = LanguageHost()
    plugin.serve(
        lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server),
        work=host.run_program,
    )
