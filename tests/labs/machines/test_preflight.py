"""The preflight of many machines is as quick as that of one: all are asked side by side."""

import asyncio
import time

import asyncssh
import pytest

from components.substrates.existing import preflight
from components.substrates.existing.plan import Host, Login, Plan
from components.substrates.existing.reach import Credentials
from lab.session import Show
from labs.machines.conftest import KEY
from labs.machines.own_hosts import OwnHost, OwnHosts

_MACHINES, _BAR_SECONDS = 10, 5.0


@pytest.fixture
def ten(trusted: OwnHosts) -> list[OwnHost]:
    """Ten bare hosts beside those of the lab."""
    made = [OwnHost(number=20 + number, name=f"ten-{number}") for number in range(_MACHINES)]
    # What boots is busy with itself.
    trusted.make_all(made)
    return made


def test_ten_machines_are_asked_in_five_seconds(trusted: OwnHosts, ten: list[OwnHost], show: Show) -> None:
    """One machine after the other; a wait for each way between two of them."""
    plan = Plan(stack="ten", hosts=tuple(_host(trusted, host) for host in ten), shares_kernel=True)
    lab_key = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()

    started = time.monotonic()
    found = asyncio.run(preflight.check(plan, Credentials(lab_key=lab_key, key=str(KEY)), {}))
    seconds = time.monotonic() - started

    show(f"\npreflight of {_MACHINES} machines: {seconds:.1f} s\n")
    for host in ten:
        trusted.remove(host)
    assert found == {}, found
    assert seconds < _BAR_SECONDS


def _host(hosts: OwnHosts, host: OwnHost) -> Host:
    keys = hosts.bash(host, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    login = Login(host=host.address, port=host.port, user="root", host_keys=(" ".join(keys[:2]),))
    role = "worker" if host.number % 2 else "controller"
    return Host(name=host.name, roles=(role,), login=login, address=host.address)
