"""What the labs on existing hosts need. Their conftest takes the fixtures from here, and has `stack` and `users`."""

from collections.abc import Iterator, Sequence

import pytest

from labs.machines.own_hosts import OwnHost, OwnHosts
from labs.machines.own_stack import users_hosts


@pytest.fixture(scope="session")
def hosts(stack: str, users: Sequence[OwnHost]) -> Iterator[OwnHosts]:
    """The user's hosts; no host key is pinned yet."""
    with users_hosts(stack, users) as made:
        yield made


@pytest.fixture(scope="session")
def before(hosts: OwnHosts) -> dict[OwnHost, set[str]]:
    """What was on each host before a lab changed anything there."""
    return hosts.listings()
