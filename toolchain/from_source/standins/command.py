"""Stand-in for the `command` plugin 1.2.1: commands on this machine and on others.

Not here: `CopyToRemote`, `CopyFile`, `local.run`, and the `assetPaths` and `archivePaths` of local commands.
Source of the behaviour: pulumi-command 1.2.1, `provider/pkg/provider`.
"""

import asyncio
import importlib
import json
import secrets
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

from toolchain.from_source.standins import local_process
from toolchain.from_source.standins.properties import UNKNOWN, Properties, Secret, changes, revealed
from toolchain.from_source.standins.provider import Difference, Failure, Log, Provider, Resource, ResourceError, serve
from toolchain.from_source.standins.transcript import Transcript

VERSION = "1.2.1"

_CONNECTION_DEFAULTS = {"user": "root", "port": 22, "dialErrorLimit": 10, "perDialTimeout": 15}
_CONNECTION_SECRETS = ("password", "privateKey", "privateKeyPassword")
_NOT_SUPPORTED = ("assetPaths", "archivePaths")
_COMMON_INPUTS = frozenset(
    {"create", "update", "delete", "triggers", "stdin", "logging", "environment", "addPreviousOutputInEnv"}
)
# Cancelled commands get a little time to end, as the engine kills after five seconds.
_END_SECONDS = 3.0


class Background:
    """An event loop in a thread of its own, where all commands run at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[str | None]] = set()
        self._lock = threading.Lock()
        self._import = threading.Thread(
            target=importlib.import_module, args=("toolchain.from_source.standins.ssh",), daemon=True
        )
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, str | None]) -> str | None:
        """Run to the end.

        Raises:
            ResourceError: it was cancelled.
        """
        try:
            return asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop).result()
        except CancelledError:
            raise ResourceError("the command was cancelled") from None

    def import_ssh(self) -> None:
        """Begin to import what remote commands need; most runs of the engine change nothing, and do not need it."""
        with self._lock:
            if self._import.ident is None:
                self._import.start()

    def wait_for_ssh(self) -> None:
        """Wait until that is imported."""
        self._import.join()

    def cancel(self) -> Future[None]:
        """Cancel all that runs; the result is there when all has ended."""
        return asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)

    async def _tracked(self, work: Coroutine[Any, Any, str | None]) -> str | None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await task

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Command:
    """What local and remote commands have in common."""

    def __init__(self, background: Background) -> None:
        self._background = background

    inputs: frozenset[str]
    kind: str

    def check(self, inputs: Properties) -> tuple[Properties, list[Failure]]:
        return inputs, [
            Failure(property=name, reason=f"Unrecognized field '{name}' on '{self.kind}.CommandInputs'")
            for name in inputs
            if name not in self.inputs
        ]

    def diff(self, state: Properties, old_inputs: Properties, inputs: Properties) -> Difference:
        found = dict(changes(old_inputs, inputs))
        # Of a change inside of the list the SDK tells the engine: replaceOnChanges.
        return Difference(changes=found, replaces=frozenset({"triggers"} & found.keys()))

    def planned(self, state: Properties | None, inputs: Properties) -> Properties:
        before, after = revealed(state or {}), revealed(inputs)
        # The official plugin's framework compares what the state has: an input that is new changes no output for it.
        same = all(before[name] == after.get(name) for name in self.inputs & before.keys())
        if state is None or not same or UNKNOWN in after.values():
            return inputs | {"stdout": UNKNOWN, "stderr": UNKNOWN}
        return inputs | _said(state)

    def planned_id(self, name: str) -> str:
        # Not the one that it gets, as with the official plugin; but what needs an id is shown whole by a preview.
        return _new_id(name)

    def create(self, name: str, inputs: Properties, log: Log) -> tuple[str, Properties]:
        # What a machine is created by comes before the first command on it, which is not to wait for this.
        self._background.import_ssh()
        nothing: Properties = {"stdout": "", "stderr": ""}
        return _new_id(name), self._outputs(inputs.get("create"), inputs, nothing, log)

    def read(self, state: Properties) -> Properties:
        return state

    def update(self, state: Properties, inputs: Properties, log: Log) -> Properties:
        # The last outputs stay where there is nothing to run.
        return self._outputs(inputs.get("update", inputs.get("create")), inputs, _said(state), log)

    def delete(self, state: Properties, log: Log) -> None:
        self._outputs(state.get("delete"), state, state, log)

    def _outputs(self, text: Any, inputs: Properties, previous: Properties, log: Log) -> Properties:
        """Run a command, if there is one.

        Raises:
            ResourceError: it failed.
        """
        if text is None:
            return inputs | previous
        wanted, last = revealed(inputs), revealed(previous)
        passed_on = {
            f"PULUMI_COMMAND_{name.upper()}": last[name]
            for name in ("stdout", "stderr")
            if wanted.get("addPreviousOutputInEnv", True) and last.get(name)
        }
        transcript = Transcript(log.status, wanted.get("logging", "stdoutAndStderr"))
        command = revealed(text)
        failure = self._background.run(self._run(command, wanted, passed_on, transcript, log))
        transcript.close()
        if failure:
            # Quoted as the official plugin does, so that what it prints can be searched for.
            raise ResourceError(f"{failure}: running {json.dumps(command, ensure_ascii=False)}:\n{transcript.both}")
        return inputs | {"stdout": transcript.text("stdout"), "stderr": transcript.text("stderr")}

    async def _run(
        self, text: str, inputs: Properties, previous: dict[str, str], transcript: Transcript, log: Log
    ) -> str | None:
        raise NotImplementedError


class LocalCommand(Command):
    """`command:local:Command`: a process on this machine."""

    inputs = _COMMON_INPUTS | {"interpreter", "dir", *_NOT_SUPPORTED}
    kind = "local"

    def check(self, inputs: Properties) -> tuple[Properties, list[Failure]]:
        checked, failures = super().check(inputs)
        return checked, failures + [
            Failure(property=name, reason="not supported by this stand-in for the official plugin")
            for name in _NOT_SUPPORTED
            if name in inputs
        ]

    async def _run(
        self, text: str, inputs: Properties, previous: dict[str, str], transcript: Transcript, log: Log
    ) -> str | None:
        return await local_process.run(text, inputs, previous, transcript)


class RemoteCommand(Command):
    """`command:remote:Command`: a command over SSH."""

    inputs = _COMMON_INPUTS | {"connection"}
    kind = "remote"

    def check(self, inputs: Properties) -> tuple[Properties, list[Failure]]:
        checked, failures = super().check(inputs)
        if "connection" not in inputs:
            return checked, [*failures, Failure(property="connection", reason="is required")]
        connection, more = _checked_connection(revealed(inputs["connection"]), "connection")
        return checked | {"connection": Secret(connection)}, failures + more

    async def _run(
        self, text: str, inputs: Properties, previous: dict[str, str], transcript: Transcript, log: Log
    ) -> str | None:
        # Not imported at the top: a fifth of a second that the engine would wait for. In a thread, so that other
        # commands go on.
        self._background.import_ssh()
        await asyncio.to_thread(self._background.wait_for_ssh)
        from toolchain.from_source.standins import ssh

        return await ssh.run(text, inputs, previous, transcript, log)


def _new_id(name: str) -> str:
    return f"{name}{secrets.token_hex(4)}"


def _said(state: Properties) -> Properties:
    return {name: state[name] for name in ("stdout", "stderr") if name in state}


def _checked_connection(connection: Any, path: str) -> tuple[Any, list[Failure]]:
    """Fill in the defaults of a connection and of its proxy, and mark what is secret in them."""
    if connection is UNKNOWN:
        return connection, []
    failures = [] if "host" in connection else [Failure(property=f"{path}.host", reason="is required")]
    checked = _CONNECTION_DEFAULTS | connection
    for name in _CONNECTION_SECRETS:
        if name in checked:
            checked[name] = Secret(checked[name])
    if "proxy" in checked:
        checked["proxy"], more = _checked_connection(checked["proxy"], f"{path}.proxy")
        failures += more
    return checked, failures


def main() -> None:
    """Run the plugin; the engine's address is the last argument."""
    background = Background()
    resources: dict[str, Resource] = {
        "command:local:Command": LocalCommand(background),
        "command:remote:Command": RemoteCommand(background),
    }
    serve(Provider(VERSION, resources, background.cancel), before_end=lambda: _end(background))


def _end(background: Background) -> None:
    with suppress(TimeoutError):
        background.cancel().result(_END_SECONDS)
