"""The commands that stop and start a lab: stop, start."""

from cli import stacks
from toolchain.stack import Stack


@stacks.command()
def stop(stack: Stack) -> None:
    """Stop all machines of a lab in containers. Everything on them stays: docs/stop-and-rewind.md."""
    from live import power

    power.stop(stack)


@stacks.command()
def start(stack: Stack) -> None:
    """Start a stopped lab, and wait until it is healthy."""
    from live import power

    power.start(stack)
