"""`./hardway free`: a machine that exists already, freed of a lab whose state is lost, or whose entry was killed."""

import asyncio

from components.substrates.existing import free as hosts_free
from components.substrates.existing.reach import Credentials, HostError
from toolchain import trust
from toolchain.errors import ToolchainError
from toolchain.stack import Stack


def free(stack: Stack, machine: str, fingerprint: str | None) -> None:
    """Take back what a lab did to one of its machines, by the user's own key or password.

    Args:
        stack: the lab.
        machine: its name in the lab.
        fingerprint: of the lab's key; without it the host is only looked at.

    Raises:
        ToolchainError: there is no such machine, it is another lab's, or it cannot be freed.
    """
    described = trust.described(stack)
    hosts = trust.hosts(described)
    host = next((each for each in hosts if each.name == machine), None)
    if host is None:
        names = ", ".join(each.name for each in hosts) or "none that exists already"
        raise ToolchainError(f"The stack {stack.name} has no machine {machine!r} to free: it has {names}.")
    credentials = Credentials(key=described.settings.machines.key, timeout_factor=described.settings.timeout_factor)
    try:
        asyncio.run(hosts_free.free(host, stack.name, credentials, fingerprint))
    except HostError as reason:
        raise ToolchainError(str(reason)) from None
    print(f"{machine} ({host.login}) is free: nothing of the lab {stack.name} is on it.")
