"""How long `hosts` waits for a host that takes a connection and says nothing: times the lab's `timeout_factor`."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from hosts import reach, trust
from hosts.plan import Host, Login
from hosts.reach import Credentials, HostError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDi27qEletVlQp85DdPdtoGXyyPRU012cOU3ERg6Xog5"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Login]:
    """An sshd that never says a word; the deadlines are of one second."""
    monkeypatch.setattr(reach, "_CONNECT_SECONDS", 1)
    monkeypatch.setattr(trust, "_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Login(host="127.0.0.1", port=server.getsockname()[1], user="root", host_keys=(KEY,))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_login_waits_longer_for_a_slow_host(silent: Login, factor: int) -> None:
    with pytest.raises(HostError, match=f"does not answer within {factor} s"):
        asyncio.run(reach.dial(silent, Credentials(timeout_factor=factor)))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_host_key_is_waited_for_longer(silent: Login, factor: int) -> None:
    host = Host(name="node", roles=("worker",), login=silent, address="10.0.0.1")
    (shown,) = asyncio.run(trust.ask([host], Credentials(timeout_factor=factor)))
    assert f"no answer within {factor} s" in shown.problem.replace("\N{NO-BREAK SPACE}", " ")
