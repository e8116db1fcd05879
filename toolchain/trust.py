"""`./hardway trust` and `./hardway free`: hosts that exist before the lab, by what their substrate offers for it."""

from config import lab, settings_file
from toolchain.errors import ToolchainError
from toolchain.stack import Stack


def pin(stack: Stack) -> None:
    """Ask every host of a stack for its keys, print their fingerprints, and pin those that are new.

    Raises:
        UserError: the stack has no hosts of its own, a host shows none, or another key than the pinned one.
    """
    described_lab = described(stack)
    if problems := described_lab.settings.traits.load_operations().trust(described_lab):
        raise ToolchainError("\n".join(["Not all hosts can be trusted:", *(f"  {problem}" for problem in problems)]))


def free(stack: Stack, machine: str, fingerprint: str | None) -> None:
    """Take back what a lab did to one of its machines.

    Args:
        stack: the lab.
        machine: its name in the lab.
        fingerprint: of the lab's key; without it the host is only examined.

    Raises:
        UserError: there is no such machine, it is another lab's, or it cannot be freed.
    """
    described_lab = described(stack)
    described_lab.settings.traits.load_operations().free(described_lab, machine, fingerprint)


def described(stack: Stack) -> lab.Lab:
    """The lab that a stack's settings file describes.

    Raises:
        UserError: with all that is wrong in it.
    """
    document = settings_file.lab_of(stack.settings_file, stack.project)
    return lab.parse(stack.name, {} if document is None else document)
