"""Running a command on another machine for `command:remote:Command`."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any

import asyncssh
from asyncssh.packet import String

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

_NOT_ACCEPTED = (
    "Unable to set {name!r}. This only works if the SSH server is configured to accept it, by AcceptEnv. "
    "Or prefix the command with VAR=value."
)


async def run(text: str, inputs: Properties, previous: dict[str, str], transcript: Transcript, log: Log) -> str | None:
    """Run a command over a connection of its own; when cancelled, end the command.

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
        async with _connected(inputs["connection"], log) as connection:
            channel = _Channel(connection, inputs.get("environment", {}), previous, log)
            await channel.start(session, text)
            try:
                # A command may end without reading its input.
                with suppress(BrokenPipeError):
                    channel.write((inputs.get("stdin") or "").encode())
                channel.write_eof()
                await channel.wait_closed()
            except asyncio.CancelledError:
                channel.terminate()
                raise
    except asyncssh.Error as error:
        raise ResourceError(f"{_address(inputs['connection'])}: {error.reason}") from error
    return session.failure


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
        return await super()._make_request(request, *args)


@asynccontextmanager
async def _connected(wanted: Properties, log: Log) -> AsyncIterator[asyncssh.SSHClientConnection]:
    proxy = wanted.get("proxy")
    if not proxy:
        async with await _dial("Dial", wanted, log) as connection:
            yield connection
        return
    async with (
        await _dial("Dial proxy", proxy, log) as tunnel,
        await _dial("Dial from proxy", wanted, log, tunnel) as connection,
    ):
        yield connection


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
