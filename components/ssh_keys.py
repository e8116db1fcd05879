"""The SSH keys of a lab: the one that the Pulumi host uses, the one that machines also accept during a rotation.

Made: the lab's first key, whose fingerprint is the lab's identity for as long as it exists (docs/lab-ownership.md), and
a key for each later generation that machines accept (config/rotations.py). A rotation leaves the first key in the
state, as the identity; no machine accepts it then.
"""

from collections.abc import Sequence

import pulumi
import pulumi_tls as tls

from components.pki import rotated
from config import ssh_comment
from config.rotations import NEVER, Rotation


class SshKeys:
    """The keys.

    Attributes:
        first: the key that the lab was made with: its identity.
        active: the key by which the machines are reached.
        rotation: how far its rotation is.
        has_rotated: whether the first key was ever rotated; if not, nothing but `first` is made.
    """

    def __init__(self, name: str, lab: str, rotation: Rotation, opts: pulumi.ResourceOptions) -> None:
        """Make them.

        Args:
            name: of the resource of the first one.
            lab: the lab's name.
            rotation: how far their rotation is.
            opts: of each.
        """

        def made(number: int) -> tls.PrivateKey:
            return tls.PrivateKey(rotated(name, number), algorithm="ED25519", opts=opts)

        self.first = made(0)
        self.rotation, self.has_rotated = rotation, rotation != NEVER
        self._accepted = [made(number) if number else self.first for number in rotation.generations]
        self.active = self._accepted[0]
        self._lab = lab

    @property
    def private(self) -> Sequence[pulumi.Output[str]]:
        """The private keys that machines accept (OpenSSH, secret), the active one first."""
        return [key.private_key_openssh for key in self._accepted]

    @property
    def comment(self) -> pulumi.Output[str]:
        """The last word of each line that a rotation writes into a file authorized_keys: whose lab it is."""
        return self.first.public_key_fingerprint_sha256.apply(lambda known: ssh_comment.comment(self._lab, known))

    @property
    def lines(self) -> pulumi.Output[str]:
        """The lines for a file authorized_keys, the active key first."""
        publics = [key.public_key_openssh for key in self._accepted]
        return pulumi.Output.all(self.comment, *publics).apply(
            lambda known: "\n".join(f"{' '.join(public.split()[:2])} {known[0]}" for public in known[1:])
        )
