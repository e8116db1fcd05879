"""How long `hosts` waits for a host that takes a connection and says nothing: times the lab's `timeout_factor`."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from components.substrates.existing import reach, trust
from components.substrates.existing.plan import Host, Login
from components.substrates.existing.reach import Credentials, HostError

SECONDS = 0.2
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDi27qEletVlQp85DdPdtoGXyyPRU012cOU3ERg6Xog5"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Login]:
    """An sshd that never says a word; the deadlines are of a fifth of a second."""
    monkeypatch.setattr(reach, "_CONNECT_SECONDS", SECONDS)
    monkeypatch.setattr(trust, "_SECONDS", SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Login(host="127.0.0.1", port=server.getsockname()[1], user="root", host_keys=(KEY,))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_login_waits_longer_for_a_slow_host(silent: Login, factor: int) -> None:
    with pytest.raises(HostError, match=f"does not answer within {SECONDS * factor} s"):
        asyncio.run(reach.dial(silent, Credentials(timeout_factor=factor)))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_host_key_is_waited_for_longer(silent: Login, factor: int) -> None:
    host = Host(name="node", roles=("worker",), login=silent, address="10.0.0.1")
    (shown,) = asyncio.run(trust.ask([host], Credentials(timeout_factor=factor)))
    assert f"no answer within {SECONDS * factor} s" in shown.problem.replace("\N{NO-BREAK SPACE}", " ")


SERVER = """
import asyncio, sys, asyncssh

async def serve():
    key = asyncssh.generate_private_key("ssh-ed25519")

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username):
            return False

    async def process(started):
        print("begun", flush=True)
        await asyncio.sleep(600)

    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[key], server_factory=Server, process_factory=process
    )
    print(server.get_port(), key.export_public_key().decode().strip(), flush=True)
    await asyncio.sleep(600)

asyncio.run(serve())
"""


def test_a_host_that_freezes_in_the_middle_of_a_script_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_KEEPALIVE_SECONDS", 0.2)
    monkeypatch.setattr(reach, "_KEEPALIVES", 2)
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port, key = server.stdout.readline().split(" ", 1)
            login = Login(host="127.0.0.1", port=int(port), user="root", host_keys=(key.strip(),))
            begun = server.stdout

            async def run() -> None:
                connection = await reach.dial(login, Credentials(lab_key_only=True))
                script = asyncio.create_task(reach.as_root(connection, login, "true"))
                await asyncio.to_thread(begun.readline)
                server.send_signal(signal.SIGSTOP)
                with pytest.raises(HostError, match="the connection broke, or the host does not answer"):
                    await asyncio.wait_for(script, 30)

            asyncio.run(run())
        finally:
            server.kill()
