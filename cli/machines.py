"""The commands for hosts that exist already: trust, free."""

import click

from cli import stacks


@click.command(cls=stacks.LabCommand)
@stacks.option
@click.pass_context
def trust(ctx: click.Context) -> None:
    """Show the SSH host keys of existing hosts, and pin them."""
    from toolchain import trust as keys

    keys.pin(stacks.chosen(ctx))


@click.command(cls=stacks.LabCommand)
@stacks.option
@click.argument("machine", shell_complete=stacks.complete_machine)
@click.argument("key", required=False)
@click.pass_context
def free(ctx: click.Context, machine: str, key: str | None) -> None:
    """Take a lab off an existing host where `destroy` cannot.

    KEY is the fingerprint of the lab's key. Without it the host is only examined.
    """
    from toolchain import trust as keys

    keys.free(stacks.chosen(ctx), machine, key)
