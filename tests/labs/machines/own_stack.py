"""A stack on hosts of a user's own: it comes with them, trusting nobody, and goes with them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from config import trust
from lab import session
from lab.commands import CHECKOUT, settings_file
from labs.machines.own_hosts import OwnHost, OwnHosts


def key_of(stack: str) -> Path:
    """The user's private key, as the stack's settings file names it."""
    return CHECKOUT / ".state" / f"{stack}.key"


@contextmanager
def users_hosts(stack: str, hosts: Sequence[OwnHost]) -> Iterator[OwnHosts]:
    """The hosts, and a stack without a state."""
    key, settings = key_of(stack), settings_file(stack)
    before = settings.read_bytes()
    key.parent.mkdir(exist_ok=True)
    key.unlink(missing_ok=True)
    trust.file_of(stack).unlink(missing_ok=True)
    with OwnHosts(hosts, key) as made:
        # What an earlier run has left in the state was on hosts that are no more.
        session.forget(stack)
        try:
            yield made
        finally:
            # A rotation stands there.
            settings.write_bytes(before)
        session.forget(stack)
    key.unlink()
    trust.file_of(stack).unlink(missing_ok=True)
