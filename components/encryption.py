"""Encryption at rest: the keys that Secrets are encrypted with in etcd, and the API server's configuration for them.

Source: https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
"""

import base64
from collections.abc import Sequence

import pulumi
import pulumi_tls as tls
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from pulumi_command import local

from components.pki import rotated
from config import yaml_text
from config.rotations import NEVER, TRUSTED, Rotation

_PROVIDERS = ("secretbox", "aescbc")


# Its input, then what it printed before, each line once. In no command line: the keys are secret.
_KEEP = """\
# The encryption keys of Secrets, the newest first
{ cat; printf '%s\\n' "${PULUMI_COMMAND_STDOUT:-}"; } | awk 'NF && !seen[$0]++'"""
# The same once the key was rotated: "GENERATION KEY", and "KEY" of the key that the lab was made with. The line
# "forget GENERATION" removes the keys of the generations before it.
_KEEP_GENERATIONS = """\
# The encryption keys of Secrets, the newest first, without those that a rotation has removed
{ cat; printf '%s\\n' "${PULUMI_COMMAND_STDOUT:-}"; } |
  awk '$1 == "forget" { least = $2; next } NF && (NF > 1 ? $1 : 0) >= least && !seen[$0]++'"""


class Encryption(pulumi.ComponentResource):
    """A random key of 32 bytes, and those before it, kept secret in the state.

    A key that Pulumi replaces (`pulumi up --replace`, `pulumi state delete`) still reads the Secrets that it encrypted.

    Attributes:
        configuration: the EncryptionConfiguration, YAML, secret.
    """

    def __init__(
        self,
        name: str,
        *,
        provider: str,
        after: Sequence[pulumi.Resource],
        rotation: Rotation = NEVER,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("hardway:index:Encryption", name, None, opts)
        # An Ed25519 private key is 32 bytes straight from the system's random source (RFC 8032, 5.1.5): just what both
        # providers want, and no plugin is needed for it that the lab does not have anyway.
        seed = tls.PrivateKey(
            rotated(f"{name}-key", rotation.count), algorithm="ED25519", opts=pulumi.ResourceOptions(parent=self)
        )
        script = _KEEP_GENERATIONS if rotation.count else _KEEP
        keys = local.Command(
            f"{name}-keys",
            create=script,
            stdin=seed.private_key_pem.apply(
                lambda pem: told(base64.b64encode(_seed(pem)).decode(), rotation, when_done=not rotation.stage)
            ),
            logging=local.Logging.NONE,
            # Where a change of the lab is refused, the state keeps no keys for it.
            opts=pulumi.ResourceOptions(parent=self, additional_secret_outputs=["stdout"], depends_on=list(after)),
        )
        self.configuration = keys.stdout.apply(
            lambda printed: encryption_configuration(provider, named_keys(printed), rotation)
        )
        self.register_outputs({})


def told(key: str, rotation: Rotation, *, when_done: bool) -> str:
    """The input of the command that keeps the keys.

    Args:
        key: the newest.
        rotation: which it belongs to.
        when_done: whether the keys before that rotation are no longer needed.
    """
    if not rotation.count:
        return f"{key}\n"
    return (f"forget {rotation.count}\n" if when_done else "") + f"{rotation.count} {key}\n"


def named_keys(printed: str) -> list[tuple[str, str]]:
    """Name and key, of the lines that the command printed; the newest first.

    A name never changes: with what it encrypts, etcd has the key's name.
    """
    lines = [line.split() for line in printed.splitlines() if line]
    named: list[tuple[str, str]] = []
    counts: dict[str, int] = {}
    for *generation, key in reversed(lines):
        kind = f"key-{generation[0]}." if generation else "key"
        # By age, of those that Pulumi has replaced.
        counts[kind] = counts.get(kind, 0) + 1
        named.append((f"{kind}{counts[kind]}", key))
    return named[::-1]


def key_in_use(rotation: Rotation) -> str:
    """The pattern of the names of the keys that this rotation brought."""
    return f"key-{rotation.count}\\.[0-9]*"


def encryption_configuration(provider: str, keys: Sequence[tuple[str, str]], rotation: Rotation = NEVER) -> str:
    """The EncryptionConfiguration for Secrets.

    Args:
        provider: secretbox or aescbc.
        keys: name and key, 32 bytes each in base64; the newest first.
        rotation: while its new key is only accepted, the keys before it come first.
    """
    if rotation.stage == TRUSTED:
        new = [each for each in keys if each[0].startswith(f"key-{rotation.count}.")]
        keys = [*(each for each in keys if each not in new), *new]
    named = [{"name": name, "secret": key} for name, key in keys]
    return yaml_text.dump(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {
                    "resources": ["secrets"],
                    "providers": [
                        # The first key of the first one writes. The others read what was written before.
                        *(
                            {each: {"keys": [dict(key) for key in named]}}
                            for each in sorted(_PROVIDERS, key=lambda each: each != provider)
                        ),
                        # Reads what was written before encryption was on; last, so that nothing is written so.
                        {"identity": {}},
                    ],
                }
            ],
        },
    )


def _seed(pem: str) -> bytes:
    key = load_pem_private_key(pem.encode(), password=None)
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
