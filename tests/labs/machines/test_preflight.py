"""The preflight of many machines is as quick as that of one: all are asked side by side."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncssh
import pytest

from components.substrates.existing import preflight, reach
from components.substrates.existing.plan import Host, Login, Plan
from components.substrates.existing.reach import Credentials
from lab.session import Show
from labs.machines.conftest import KEY
from labs.machines.own_hosts import OwnHost, OwnHosts, side_by_side

_MACHINES = 10
_BAR_SECONDS = 5.0
# Beside other work ten labs of one machine, which have no ways between machines, take longer than the bar, too. A wait
# of 2 s for each way is far above.
_TIMES_APART = 2.5
# What others do changes within seconds.
_TRIES = 3
_ALL_ASKED_SECONDS = 60


@pytest.fixture
def ten(trusted: OwnHosts) -> list[OwnHost]:
    """Ten bare hosts beside those of the lab."""
    made = [OwnHost(number=20 + number, name=f"ten-{number}") for number in range(_MACHINES)]
    # What boots is busy with itself.
    trusted.make_all(made)
    return made


def test_ten_machines_are_asked_in_five_seconds(
    trusted: OwnHosts, ten: list[OwnHost], show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine after the other; a wait for each way between two of them."""
    hosts = [_host(trusted, host) for host in ten]
    for _ in range(_TRIES):
        apart = _seconds(*([host] for host in hosts))
        with monkeypatch.context() as patch:
            patch.setattr(reach, "as_root", _after_all_were_asked(len(hosts)))
            seconds = _seconds(hosts)
        show(f"\npreflight of {_MACHINES} machines: {seconds:.1f} s; of as many labs of one: {apart:.1f} s\n")
        bar = max(_BAR_SECONDS, _TIMES_APART * apart)
        if seconds < bar:
            break
    side_by_side(trusted.remove, ten)
    assert seconds < bar


def _after_all_were_asked(count: int) -> Callable[..., Awaitable[str]]:
    """`as_root` for a preflight: no answer before all machines are asked, so one that asks them in turn gets none."""
    asked, as_root = 0, reach.as_root
    everyone = asyncio.Event()

    async def after_all(*arguments: Any, **named: Any) -> str:
        nonlocal asked
        asked += 1
        if asked == count:
            everyone.set()
        said = await as_root(*arguments, **named)
        await asyncio.wait_for(everyone.wait(), _ALL_ASKED_SECONDS)
        return said

    return after_all


def _seconds(*labs: Sequence[Host]) -> float:
    """How long the preflights of labs take, all at once; none finds anything wrong."""
    started = time.monotonic()
    assert asyncio.run(_preflights(labs)) == [{}] * len(labs)
    return time.monotonic() - started


async def _preflights(labs: Sequence[Sequence[Host]]) -> list[dict[str, list[str]]]:
    key = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    plans = [Plan(stack="ten", hosts=tuple(hosts), shares_kernel=True) for hosts in labs]
    credentials = Credentials(lab_key=key, key=str(KEY))
    return await asyncio.gather(*(preflight.check(plan, credentials, {}) for plan in plans))


def _host(hosts: OwnHosts, host: OwnHost) -> Host:
    keys = hosts.bash(host, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    login = Login(host=host.address, port=host.port, user="root", host_keys=(" ".join(keys[:2]),))
    role = "worker" if host.number % 2 else "controller"
    return Host(name=host.name, roles=(role,), login=login, address=host.address)
