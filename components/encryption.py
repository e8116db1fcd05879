"""Encryption at rest: the key that Secrets are encrypted with in etcd, and the API server's configuration for it.

Source: https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
"""

import base64

import pulumi
import pulumi_tls as tls
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

_PROVIDERS = ("secretbox", "aescbc")


class Encryption(pulumi.ComponentResource):
    """A random key of 32 bytes, kept secret in the state.

    Attributes:
        configuration: the EncryptionConfiguration, YAML, secret.
    """

    def __init__(self, name: str, *, provider: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:Encryption", name, None, opts)
        # An Ed25519 private key is 32 bytes straight from the system's random source (RFC 8032, 5.1.5): just what both
        # providers want, and no plugin is needed for it that the lab does not have anyway.
        seed = tls.PrivateKey(f"{name}-key", algorithm="ED25519", opts=pulumi.ResourceOptions(parent=self))
        self.configuration = seed.private_key_pem.apply(lambda pem: encryption_configuration(provider, _seed(pem)))
        self.register_outputs({})


def encryption_configuration(provider: str, key: bytes) -> str:
    """The EncryptionConfiguration for Secrets.

    Args:
        provider: secretbox or aescbc.
        key: 32 bytes.
    """
    encoded = base64.b64encode(key).decode()
    return yaml.safe_dump(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {
                    "resources": ["secrets"],
                    "providers": [
                        # The first one writes. The other reads what was written before the lab changed over.
                        *(
                            {each: {"keys": [{"name": "key1", "secret": encoded}]}}
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
