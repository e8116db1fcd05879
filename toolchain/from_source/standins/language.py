"""Stand-in for the Python language host: runs a program in its own process (program.py).

In the runs of `./hardway` it also serves where the official one is installed: toolchain/program_host.py.

Source: `sdk/python/cmd/pulumi-language-python-exec` in Pulumi 3.259.0.
"""

# ruff: noqa: N802 -- the protocol names the methods of the service.

import importlib.metadata
import io
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

from toolchain.from_source.standins import plugin, policy_pack, protocol

# What runs a program is imported when one is to be run. The CLI starts a language host before that of the engine, only
# to ask for the version of Python.


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """Answers the engine. Programs wait in a queue for the main thread, where a program expects to be."""

    def __init__(self, engine: str = "") -> None:
        """Have no program yet.

        Args:
            engine: the address of the engine that started it; one that did not sends its own before a program's
                arguments.
        """
        self._engine = engine
        self._programs: queue.SimpleQueue[tuple[Any, Future[Any]]] = queue.SimpleQueue()
        self._sdk = _Sdk()

    def run_program(self) -> None:
        """Wait for the next program that the engine asks for, and run it."""
        request, answer = self._programs.get()
        self._sdk.wait()
        from toolchain.from_source.standins import program

        arguments = list(request.args)
        engine = self._engine or arguments.pop(0)
        answer.set_result(program.run(request, engine, arguments))

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
        # What the engine asks before it runs a program.
        self._sdk.start()
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


class _Sdk:
    """The import of Pulumi's SDK, in a thread of its own."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=protocol.whole, daemon=True)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, if that was not done before."""
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()

    def wait(self) -> None:
        """Until it is there."""
        self.start()
        self._thread.join()


def main() -> None:
    """Run the plugin; the engine's address is the last argument."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The engine shows what a program prints line by line.
        sys.stdout.reconfigure(line_buffering=True)
    host = LanguageHost(sys.argv[-1])
    plugin.serve(
        lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server),
        work=host.run_program,
    )
