"""The commands for hosts that exist already: trust, free."""

import click

from cli import stacks
from toolchain.stack import Stack


@stacks.command()
def trust(stack: Stack) -> None:
    """Show the SSH host keys of existing hosts, and pin them."""
    from toolchain import trust as keys

    keys.pin(stack)


@stacks.command()
@click.argument("machine", shell_complete=stacks.complete_machine)
@click.argument("key", required=False)
def free(stack: Stack, machine: str, key: str | None) -> None:
    """Remove a lab from an existing host without the lab's state.

    KEY is the fingerprint of the lab's key. Without it the host is only examined.
    """
    from toolchain import trust as keys

    keys.free(stack, machine, key)
