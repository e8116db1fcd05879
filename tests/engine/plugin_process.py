"""A plugin as the engine has it: a process of its own, told where the engine listens, asked by gRPC."""

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message_factory import GetMessageClass
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    language_pb2,
    language_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

_SECONDS = 60
_ENDS_SECONDS = 10


class Engine(engine_pb2_grpc.EngineServicer, resource_pb2_grpc.ResourceMonitorServicer):
    """What a plugin and a program need of an engine; it keeps what they say.

    Attributes:
        address: where it listens.
        said: severity and text of each message that is kept for the user.
        shown: the text of each message that is shown while the plugin works.
        registered: type, name and inputs of each resource that a program has registered.
        outputs: those of the stack.
    """

    def __init__(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(8))
        engine_pb2_grpc.add_EngineServicer_to_server(self, self._server)
        resource_pb2_grpc.add_ResourceMonitorServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._lock = threading.Lock()
        self.forget()
        self._root = ""

    def forget(self) -> None:
        """Keep nothing of what was said before."""
        self.said: list[list[str]] = []
        self.shown: list[str] = []
        self.registered: list[list[Any]] = []
        self.outputs: dict[str, Any] = {}

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def Log(self, request: engine_pb2.LogRequest, context: Any) -> Empty:  # noqa: N802
        with self._lock:
            if request.ephemeral:
                self.shown.append(request.message)
            else:
                self.said.append([engine_pb2.LogSeverity.Name(request.severity), request.message])
        return Empty()

    def GetRootResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        return engine_pb2.GetRootResourceResponse(urn=self._root)

    def SetRootResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._root = request.urn
        return engine_pb2.SetRootResourceResponse()

    def SupportsFeature(self, request: Any, context: Any) -> Any:  # noqa: N802
        return resource_pb2.SupportsFeatureResponse(hasSupport=request.id in ("secrets", "resourceReferences"))

    def RegisterResource(self, request: resource_pb2.RegisterResourceRequest, context: Any) -> Any:  # noqa: N802
        with self._lock:
            self.registered.append([request.type, request.name, json_format.MessageToDict(request.object)])
        urn = f"urn:pulumi:test::exchange::{request.type}::{request.name}"
        return resource_pb2.RegisterResourceResponse(urn=urn, id=request.name, object=request.object)

    def RegisterResourceOutputs(self, request: Any, context: Any) -> Empty:  # noqa: N802
        self.outputs = json_format.MessageToDict(request.outputs)
        return Empty()

    def SignalAndWaitForShutdown(self, request: Any, context: Any) -> Empty:  # noqa: N802
        return Empty()


class Plugin:
    """A plugin that runs.

    Args:
        command: the executable.
        directory: where it works.
        environment: variables besides the test's own.
    """

    def __init__(self, command: Sequence[str | Path], directory: Path, environment: Mapping[str, str]) -> None:
        self.engine = Engine()
        self._command = command
        self._directory = directory
        self._environment = environment

    def __enter__(self) -> "Plugin":
        self.engine.start()
        self._process = subprocess.Popen(
            [*self._command, self.engine.address],
            cwd=self._directory,
            env={**os.environ, **self._environment},
            # The engine holds the other end.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        # A program prints there; nobody else reads it.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._process.terminate()
        try:
            self._process.wait(_ENDS_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self.engine.stop()

    def ask(self, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request, and give the answer, or the error, and what the engine was told meanwhile."""
        self.engine.forget()
        service, name = method.split(".")
        stub_of = {
            "provider": provider_pb2_grpc.ResourceProviderStub,
            "language": language_pb2_grpc.LanguageRuntimeStub,
        }
        call = getattr(stub_of[service](self._channel), name)
        message = json_format.ParseDict(dict(request), _request_type(service, name)())
        found: dict[str, Any] = {}
        try:
            answer = call(message, timeout=_SECONDS)
            messages = list(answer) if hasattr(answer, "__iter__") else [answer]
            found["answer"] = json_format.MessageToDict(messages[-1]) if messages else {}
        except grpc.RpcError as error:
            found["error"] = [error.code().name, error.details()]
        for kept in ("said", "shown", "registered", "outputs"):
            if value := getattr(self.engine, kept):
                found[kept] = value
        return found


def _request_type(service: str, name: str) -> Any:
    """The message that a method takes, by the protocol's own description."""
    described = {"provider": provider_pb2, "language": language_pb2}[service]
    full = {"provider": "ResourceProvider", "language": "LanguageRuntime"}[service]
    kind = described.DESCRIPTOR.services_by_name[full].methods_by_name[name].input_type
    return GetMessageClass(kind)
