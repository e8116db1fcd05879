"""Encryption at rest: the keys that Secrets are encrypted with in etcd, and the API server's configuration for them.

Source: https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
"""

import base64
from collections.abc import Sequence

import pulumi
import pulumi_tls as tls
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from pulumi_command import local

_PROVIDERS = ("secretbox", "aescbc")


# Its input, then what it printed before, each line once. In no command line: the keys are secret.
_KEEP = """\
# The encryption keys of Secrets, the newest first
{ cat; printf '%s\\n' "${PULUMI_COMMAND_STDOUT:-}"; } | awk 'NF && !seen[$0]++'"""


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
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("hardway:index:Encryption", name, None, opts)
        # An Ed25519 private key is 32 bytes straight from the system's random source (RFC 8032, 5.1.5): just what both
        # providers want, and no plugin is needed for it that the lab does not have anyway.
        seed = tls.PrivateKey(f"{name}-key", algorithm="ED25519", opts=pulumi.ResourceOptions(parent=self))
        keys = local.Command(
            f"{name}-keys",
            create=_KEEP,
            stdin=seed.private_key_pem.apply(lambda pem: f"{base64.b64encode(_seed(pem)).decode()}\n"),
            logging=local.Logging.NONE,
            # Where a change of the lab is refused, the state keeps no keys for it.
            opts=pulumi.ResourceOptions(parent=self, additional_secret_outputs=["stdout"], depends_on=list(after)),
        )
        self.configuration = keys.stdout.apply(lambda printed: encryption_configuration(provider, printed.split()))
        self.register_outputs({})


def encryption_configuration(provider: str, keys: Sequence[str]) -> str:
    """The EncryptionConfiguration for Secrets.

    Args:
        provider: secretbox or aescbc.
        keys: 32 bytes each, in base64; the newest first.
    """
    # By age: a key keeps its name when another comes.
    named = [{"name": f"key{len(keys) - index}", "secret": key} for index, key in enumerate(keys)]
    return yaml.safe_dump(
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
        sort_keys=False,
    )


def _seed(pem: str) -> bytes:
    key = load_pem_private_key(pem.encode(), password=None)
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
