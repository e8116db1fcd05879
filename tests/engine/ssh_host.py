"""An SSH server in the test's own process, on 127.0.0.1, which runs commands on this machine."""

import asyncio
import os
import signal
import socket
import threading
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from types import TracebackType
from typing import Any

import asyncssh

ENDS_AT_ONCE = "exit 0 # before its input comes"
"""A command that ends together with the answer that it has begun."""

_PASSWORD = "correct horse"
_SIGNALS = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


class SshHost:
    """Accepts one key and one password for any user, and is a jump host as well.

    Attributes:
        commands: the commands that were run, in order.
        connections: how many clients have logged in.
        running: how many commands run.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.commands: list[str] = []
        self.connections = 0
        self.running = 0
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._user_key = asyncssh.generate_private_key("ssh-ed25519")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._acceptor: asyncssh.SSHAcceptor | None = None

    @property
    def connection(self) -> dict[str, Any]:
        """How a `remote.Command` reaches it, in the SDK's names."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "tester",
            "private_key": self._user_key.export_private_key().decode(),
            "host_key": self._host_key.export_public_key().decode(),
            "dial_error_limit": 0,
        }

    @property
    def password(self) -> str:
        return _PASSWORD

    def __enter__(self) -> "SshHost":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: _Server(self),
            server_host_keys=[self._host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(self._user_key.export_public_key().decode()),
            encoding=None,
        )

    async def _close(self) -> None:
        if self._acceptor:
            self._acceptor.close()
            await self._acceptor.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Server(asyncssh.SSHServer):
    def __init__(self, host: SshHost) -> None:
        self._host = host

    def auth_completed(self) -> None:
        self._host.connections += 1

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == self._host.password

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return _Session(self._host)


class _Session(asyncssh.SSHServerSession[bytes]):
    """Runs one command, which gets the signals that the client sends, as from OpenSSH."""

    def __init__(self, host: SshHost) -> None:
        self._host = host
        self._stdin: list[bytes] = []
        self._given = asyncio.Event()
        self._process: Process | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def exec_requested(self, command: str) -> bool:
        self._host.commands.append(command)
        if command != ENDS_AT_ONCE:
            self._task = asyncio.ensure_future(self._run(command))
        return True

    def session_started(self) -> None:
        if self._host.commands[-1] == ENDS_AT_ONCE:
            self._channel.exit(0)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._stdin.append(data)

    def eof_received(self) -> bool:
        self._given.set()
        return True

    def signal_received(self, signal: str) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, _SIGNALS[signal])

    async def _run(self, command: str) -> None:
        await self._given.wait()
        environment = {"PATH": os.defpath} | dict(self._channel.get_environment())
        self._process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
        )
        self._host.running += 1
        output, errors = await self._process.communicate(b"".join(self._stdin))
        self._host.running -= 1
        # The client may have gone without waiting.
        if not self._channel.is_closing():
            self._channel.write(output)
            self._channel.write_stderr(errors)
            self._channel.exit(self._process.returncode or 0)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
