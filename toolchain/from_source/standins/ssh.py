"""Running a command on another machine for `command:remote:Command`.

The commands of one machine share connections: to establish one takes both sides longer than most commands do. The
official plugin has one for each command. Like there, none is closed before the plugin ends.
"""

import asyncio
import itertools
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from toolchain.from_source.standins.asyncssh_alone import String, asyncssh
from toolchain.from_source.standins.properties import Properties
from toolchain.from_source.standins.provider import Log, ResourceError
from toolchain.from_source.standins.transcript import Transcript

# The official plugin pauses after each failed dial: 0.1 s, then half as much again each time, 5 s at most.
# The stand-in gives up no sooner, but dials more often, to be there when a machine has just booted.
_FIRST_PAUSE_SECONDS, _PAUSE_GROWTH, _LONGEST_PAUSE_SECONDS = 0.1, 1.5, 5.0
_PAUSE_SECONDS = 0.2
# As long as Go's dialer takes to find out that a peer is dead.
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 15, 9
_WINDOW_BYTES, _PACKET_BYTES = 2 * 1024 * 1024, 32768
# sshd's own limit is 10 sessions on a connection (MaxSessions).
_COMMANDS_AT_ONCE = 8

_NOT_ACCEPTED = (
    "Unable to set {name!r}. This only works if the SSH server is configured to accept it, by AcceptEnv. "
    "Or prefix the command with VAR=value."
)


async def run(text: str, inputs: Properties, previous: dict[str, str], transcript: Transcript, log: Log) -> str | None:
    """Run a command; when cancelled, end it.

    OpenSSH does not end commands of root: those run on without their connection, as with the official plugin.

    Args:
        text: the command, for the user's shell there.
        inputs: of the resource: `connection`, `environment` and `stdin` count.
        previous: variables that the server may refuse, with no more than a warning.
        transcript: takes what it says.
        log: is told about failed dials and refused variables.

    Returns:
        How it failed, in the official plugin's words; nothing if it did not.

    Raises:
        ResourceError: the machine cannot be reached, or refuses a variable.
    """
    session = _Session(transcript)
    try:
        shared, channel = await _begun(text, session, inputs, previous, log)
        try:
            # A command may end without reading its input.
            with suppress(BrokenPipeError):
                channel.write((inputs.get("stdin") or "").encode())
            channel.write_eof()
            await channel.wait_closed()
        except asyncio.CancelledError:
            channel.terminate()
            raise
        finally:
            shared.commands -= 1
    except asyncssh.Error as error:
        raise ResourceError(f"{_address(inputs['connection'])}: {error.reason}") from error
    return session.failure


async def _begun(
    text: str, session: "_Session", inputs: Properties, previous: dict[str, str], log: Log
) -> tuple["_Shared", "_Channel"]:
    while True:
        shared, is_new = await _connected(inputs["connection"], log)
        channel = _Channel(shared.connection, inputs.get("environment", {}), previous, log)
        shared.commands += 1
        try:
            await channel.start(session, text)
        except BaseException as error:
            shared.commands -= 1
            if not isinstance(error, asyncssh.Error | OSError):
                raise
            # Others may still use it.
            shared.takes_more = False
            if is_new or channel.asked:
                raise
            # The machine was restarted or recreated since this connection was established, or has a lower limit.
        else:
            return shared, channel


@dataclass
class _Shared:
    """A connection, and how many commands use it now."""

    connection: asyncssh.SSHClientConnection
    commands: int = 0
    takes_more: bool = True

    def has_room(self) -> bool:
        """Whether another command can use it."""
        return self.takes_more and not self.connection.is_closed() and self.commands < _COMMANDS_AT_ONCE


@dataclass
class _Machine:
    """The connections to one machine as one user; they are established one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connections: list[_Shared] = field(default_factory=list)


_machines: dict[tuple[asyncio.AbstractEventLoop, str], _Machine] = {}


async def _connected(wanted: Properties, log: Log) -> tuple[_Shared, bool]:
    """A connection that has room for a command, and whether it is new."""
    machine = _machines.setdefault((asyncio.get_running_loop(), json.dumps(wanted, sort_keys=True)), _Machine())
    async with machine.lock:
        for shared in machine.connections:
            if shared.has_room():
                return shared, False
        shared = _Shared(await _dialled(wanted, log))
        machine.connections.append(shared)
        return shared, True


class _Session(asyncssh.SSHClientSession[bytes]):
    """Receives the output of a command and its exit status."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self.failure: str | None = "wait: remote command exited without exit status or exit signal"

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._transcript.write("stderr" if datatype == asyncssh.EXTENDED_DATA_STDERR else "stdout", data)

    def exit_status_received(self, status: int) -> None:
        self.failure = f"Process exited with status {status}" if status else None

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.failure = f"Process exited with status 1 from signal {signal}" + (f". Reason was: {msg}" if msg else "")


class _Channel(asyncssh.SSHClientChannel[bytes]):
    """asyncssh sends variables and never asks whether they were accepted; the official plugin does."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        environment: dict[str, str],
        previous: dict[str, str],
        log: Log,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(connection, loop, "strict", None, "strict", _WINDOW_BYTES, _PACKET_BYTES)
        self._environment, self._previous, self._log = environment, previous, log
        self.asked = False
        """Whether the machine may have begun to run the command."""

    async def start(self, session: _Session, text: str) -> None:
        await self.create(lambda: session, text, None, {}, False, None, None, {}, False, None, None, False, False)

    async def _make_request(self, request: bytes, *args: bytes) -> bool | None:
        if request == b"exec":
            for name, value in self._environment.items():
                if not await super()._make_request(b"env", String(name), String(value)):
                    raise ResourceError(_NOT_ACCEPTED.format(name=name))
            for name, value in self._previous.items():
                if not await super()._make_request(b"env", String(name), String(value)):
                    self._log.warning(_NOT_ACCEPTED.format(name=name))
            self.asked = True
        return await super()._make_request(request, *args)


async def _dialled(wanted: Properties, log: Log) -> asyncssh.SSHClientConnection:
    proxy = wanted.get("proxy")
    if not proxy:
        return await _dial("Dial", wanted, log)
    return await _dial("Dial from proxy", wanted, log, await _dial("Dial proxy", proxy, log))


async def _dial(
    what: str, wanted: Properties, log: Log, tunnel: asyncssh.SSHClientConnection | None = None
) -> asyncssh.SSHClientConnection:
    """Connect, again and again, for as long as the official plugin would try."""
    options = _options(wanted)
    limit = int(wanted.get("dialErrorLimit", 10))
    clock = asyncio.get_running_loop().time
    give_up = clock() + _timeout_seconds(limit)
    for dials in itertools.count(1):
        try:
            return await asyncssh.connect(tunnel=tunnel or (), **options)
        except (OSError, asyncssh.Error, TimeoutError) as error:
            if 0 <= limit < dials and clock() >= give_up:
                reason = str(error) or "no answer in time"
                raise ResourceError(
                    f"after {dials} failed attempts: cannot connect to {_address(wanted)}: {reason}"
                ) from error
        log.status(f"{what} {dials} to {_address(wanted)} failed: retrying")
        await asyncio.sleep(_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def _timeout_seconds(limit: int) -> float:
    """How long the official plugin's pauses are together."""
    pauses = (min(_FIRST_PAUSE_SECONDS * _PAUSE_GROWTH**n, _LONGEST_PAUSE_SECONDS) for n in range(limit))
    return sum(pauses)


def _options(wanted: Properties) -> dict[str, Any]:
    private_key = wanted.get("privateKey")
    agent = wanted.get("agentSocketPath") or os.environ.get("SSH_AUTH_SOCK")
    if private_key:
        client_keys: Any = [_private_key(private_key, wanted.get("privateKeyPassword"))]
    else:
        client_keys = () if agent else None
    return {
        "host": wanted["host"],
        "port": int(wanted.get("port", 22)),
        "username": wanted.get("user", "root"),
        "password": wanted.get("password"),
        "client_keys": client_keys,
        # Only where it is needed: each of its keys is an attempt, and a server allows few.
        "agent_path": None if private_key else agent,
        "known_hosts": ([_host_key(wanted["hostKey"])], [], []) if wanted.get("hostKey") else None,
        # The user's own ssh_config is for people, not for programs.
        "config": None,
        "connect_timeout": wanted.get("perDialTimeout", 15) or None,
        "keepalive_interval": _KEEPALIVE_SECONDS,
        "keepalive_count_max": _KEEPALIVE_COUNT,
    }


@lru_cache(maxsize=64)
def _private_key(pem: str, password: str | None) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_private_key(pem, password)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise ResourceError(f"failed to parse the connection's private key: {error}") from None


def _host_key(line: str) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_public_key(line)
    except asyncssh.KeyImportError as error:
        raise ResourceError(f"failed to parse host key: {error}") from None


def _address(wanted: Properties) -> str:
    return f"{wanted.get('user', 'root')}@{wanted['host']}:{int(wanted.get('port', 22))}"
