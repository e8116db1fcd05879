"""The lab's SSH keys, as the commands on existing hosts get them on standard input.

That is the private key; once it was rotated, what `plan.rotated_keys` writes.
"""

import re
from dataclasses import dataclass

import asyncssh

from components.substrates.existing.plan import FIRST_KEY


@dataclass(frozen=True)
class LabKeys:
    """The keys.

    Args:
        private: those that hosts accept, the one in use first.
        first: the public key that the lab was made with; None if the key was never rotated.
    """

    private: tuple[asyncssh.SSHKey, ...]
    first: str | None

    @property
    def identity(self) -> str:
        """The fingerprint of the first key: whose lab it is."""
        return str(asyncssh.import_public_key(self.first or public(self.private[0])).get_fingerprint())


def read(text: str) -> LabKeys:
    """The keys in what comes on standard input."""
    blocks = re.findall(r"-----BEGIN .*?-----END [^\n]*-----", text, re.S)
    first = next((line.removeprefix(FIRST_KEY) for line in text.splitlines() if line.startswith(FIRST_KEY)), None)
    return LabKeys(tuple(asyncssh.import_private_key(block) for block in blocks), first)


def public(key: asyncssh.SSHKey) -> str:
    """The kind of a key and its public half."""
    return " ".join(key.export_public_key().decode().split()[:2])
