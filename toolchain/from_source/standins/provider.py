"""A resource provider: what a type of resource does is a plain object, this is the protocol around it."""

# ruff: noqa: N802 -- the protocol names the methods of the service.

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from toolchain.from_source.standins import plugin
from toolchain.from_source.standins.properties import Properties, decode, encode

_Result = TypeVar("_Result")


class ResourceError(Exception):
    """An operation on a resource failed; the message is what the user reads."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An input that is wrong: which one, and why."""

    property: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between the state and the inputs.

    Attributes:
        changes: for each path whether it was added, deleted or updated: ADD, DELETE, UPDATE.
        replaces: the paths among them whose change needs a new resource.
    """

    changes: dict[str, str] = field(default_factory=dict)
    replaces: frozenset[str] = frozenset()


class Log:
    """Sends status lines and warnings about one resource to the engine, in order."""

    def __init__(self, engine: engine_pb2_grpc.EngineStub | None, sender: ThreadPoolExecutor, urn: str) -> None:
        self._engine, self._sender, self._urn = engine, sender, urn
        self._last: Future[Any] | None = None

    def status(self, message: str) -> None:
        """Show a line while the resource is being worked on."""
        self._send(engine_pb2.INFO, message, ephemeral=True)

    def warning(self, message: str) -> None:
        """Tell the user about something that may be wrong."""
        self._send(engine_pb2.WARNING, message, ephemeral=False)

    def flush(self) -> None:
        """Wait until everything has been sent."""
        if self._last:
            self._last.result()

    def _send(self, severity: Any, message: str, *, ephemeral: bool) -> None:
        if self._engine is None:
            return
        request = engine_pb2.LogRequest(severity=severity, message=message, urn=self._urn, ephemeral=ephemeral)
        self._last = self._sender.submit(self._engine.Log, request)


class Resource(Protocol):
    """One type of resource. All methods may be called from many threads at once."""

    def check(self, inputs: Properties) -> tuple[Properties, list[Failure]]:
        """Fill in defaults, mark secrets, find wrong inputs. Unknown inputs are possible."""

    def diff(self, state: Properties, old_inputs: Properties, inputs: Properties) -> Difference:
        """Compare the state with the inputs. Unknown inputs are possible."""

    def planned(self, state: Properties | None, inputs: Properties) -> Properties:
        """The outputs that creation, or an update of the state, would give, as far as they are known."""

    def planned_id(self, name: str) -> str:
        """The id that a preview of the creation shows; empty where the official plugin has none then."""

    def create(self, name: str, inputs: Properties, log: Log) -> tuple[str, Properties]:
        """Make it; gives its id and its outputs."""

    def read(self, state: Properties) -> Properties:
        """The outputs as they are now."""

    def update(self, state: Properties, inputs: Properties, log: Log) -> Properties:
        """Change it in place; gives its new outputs."""

    def delete(self, state: Properties, log: Log) -> None:
        """Take it away."""


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """Serves some types of resources.

    Args:
        version: which version of the official provider this stands in for.
        resources: by their type tokens.
        cancel: ends all operations that are under way.
    """

    def __init__(
        self, version: str, resources: Mapping[str, Resource], cancel: Callable[[], object] = lambda: None
    ) -> None:
        self._version = version
        self._resources = resources
        self._cancel = cancel
        # One sender, so that lines keep their order.
        self._log_sender = ThreadPoolExecutor(1)
        self._connect(plugin.engine_address())

    def Attach(self, request: plugin_pb2.PluginAttach, context: Any) -> Empty:
        # By an engine that has not started it.
        self._connect(request.address)
        return Empty()

    def Handshake(self, request: Any, context: Any) -> provider_pb2.ProviderHandshakeResponse:
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    def GetPluginInfo(self, request: Any, context: Any) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

    def CheckConfig(self, request: provider_pb2.CheckRequest, context: Any) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    def Check(self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext) -> Any:
        inputs, failures = self._resource(request.type, context).check(decode(request.news))
        return provider_pb2.CheckResponse(
            inputs=encode(inputs),
            failures=[
                provider_pb2.CheckFailure(property=failure.property, reason=failure.reason) for failure in failures
            ],
        )

    def Diff(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> Any:
        difference = self._resource(request.type, context).diff(
            decode(request.olds), decode(request.old_inputs), decode(request.news)
        )
        kinds = {
            path: provider_pb2.PropertyDiff.Kind.Value(f"{kind}_REPLACE" if path in difference.replaces else kind)
            for path, kind in difference.changes.items()
        }
        some, none = provider_pb2.DiffResponse.DIFF_SOME, provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(
            changes=some if kinds else none,
            diffs=sorted(kinds),
            replaces=sorted(difference.replaces),
            detailedDiff={path: provider_pb2.PropertyDiff(kind=kind) for path, kind in kinds.items()},
            hasDetailedDiff=True,
        )

    def Create(self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext) -> Any:
        resource, inputs = self._resource(request.type, context), decode(request.properties)
        if request.preview:
            planned = encode(resource.planned(None, inputs))
            return provider_pb2.CreateResponse(id=resource.planned_id(request.name), properties=planned)
        log = self._log(request.urn)
        identity, outputs = self._attempt(log, context, lambda: resource.create(request.name, inputs, log))
        return provider_pb2.CreateResponse(id=identity, properties=encode(outputs))

    def Read(self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext) -> Any:
        if not request.properties.fields:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "import is not supported by this stand-in")
        outputs = self._resource(request.type, context).read(decode(request.properties))
        return provider_pb2.ReadResponse(id=request.id, properties=encode(outputs), inputs=request.inputs)

    def Update(self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext) -> Any:
        resource = self._resource(request.type, context)
        state, inputs = decode(request.olds), decode(request.news)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=encode(resource.planned(state, inputs)))
        log = self._log(request.urn)
        outputs = self._attempt(log, context, lambda: resource.update(state, inputs, log))
        return provider_pb2.UpdateResponse(properties=encode(outputs))

    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> Empty:
        resource, log = self._resource(request.type, context), self._log(request.urn)
        self._attempt(log, context, lambda: resource.delete(decode(request.properties), log))
        return Empty()

    def Cancel(self, request: Any, context: Any) -> Empty:
        self._cancel()
        return Empty()

    def _connect(self, engine: str) -> None:
        self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(engine)) if engine else None

    def _resource(self, token: str, context: grpc.ServicerContext) -> Resource:
        if token not in self._resources:
            context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                f"this stand-in for the official plugin has no {token}; it has {', '.join(self._resources)}",
            )
        return self._resources[token]

    def _log(self, urn: str) -> Log:
        return Log(self._engine, self._log_sender, urn)

    @staticmethod
    def _attempt(log: Log, context: grpc.ServicerContext, work: Callable[[], _Result]) -> _Result:
        try:
            return work()
        except ResourceError as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
            raise
        finally:
            log.flush()


def serve(provider: Provider, *, before_end: Callable[[], None] = lambda: None) -> NoReturn:
    """Serve until the engine ends it."""
    plugin.serve(
        lambda server: provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server),
        before_end=before_end,
    )
