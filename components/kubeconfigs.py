"""Kubeconfigs: who a program is, and where it finds the API.

Kubelets, kube-proxy and people go through the load balancer; the controller manager and the scheduler talk to the API
server on their own machine.

Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

import pulumi
import yaml

from components.pki import KeyPair
from config import yaml_text

_PEM = re.compile(r"\s*(?:-----BEGIN (?P<what>[A-Z0-9 ]+)-----\n[A-Za-z0-9+/=\n]+-----END (?P=what)-----\s*)+")


class KubeconfigError(Exception):
    """A kubeconfig lacks what is read from it. The message says what, and shows none of its content."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What is read from a kubeconfig that a machine has printed, all as PEM; nothing else of it is used.

    Args:
        ca_certificate: the certificate of the API's CA.
        certificate: the client's.
        key: the client's private key.
    """

    ca_certificate: str
    certificate: str
    key: str


def kubeconfig(
    *, cluster: str, server: pulumi.Input[str], ca_certificate: pulumi.Input[str], user: str, certificate: KeyPair
) -> pulumi.Output[str]:
    """A kubeconfig (YAML, secret) with everything inside.

    Args:
        cluster: the name the cluster goes by in it.
        server: https://address:port.
        ca_certificate: the certificate (PEM) that the server's certificate is checked against.
        user: the name the user goes by in it.
        certificate: who the user is.
    """
    return pulumi.Output.all(server, ca_certificate, certificate.public, certificate.private_key).apply(
        lambda known: render(
            cluster=cluster, server=known[0], ca_certificate=known[1], user=user, certificate=known[2], key=known[3]
        )
    )


def render(*, cluster: str, server: str, ca_certificate: str, user: str, certificate: str, key: str) -> str:
    """The kubeconfig as YAML, of values that are known."""
    return yaml_text.dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster,
                    "cluster": {"server": server, "certificate-authority-data": _base64(ca_certificate)},
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)},
                }
            ],
            "contexts": [{"name": f"{user}@{cluster}", "context": {"cluster": cluster, "user": user}}],
            "current-context": f"{user}@{cluster}",
        },
    )


def credentials_of(text: str) -> Credentials:
    """The credentials in a kubeconfig that has one cluster and one user.

    Raises:
        KubeconfigError: one of them is not there, or is something else.
    """
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise KubeconfigError("it is no YAML") from None
    cluster, user = _only(document, "clusters", "cluster"), _only(document, "users", "user")
    return Credentials(
        ca_certificate=_pem(cluster, "certificate-authority-data", "CERTIFICATE"),
        certificate=_pem(user, "client-certificate-data", "CERTIFICATE"),
        key=_pem(user, "client-key-data", "PRIVATE KEY"),
    )


def _only(document: Any, many: str, one: str) -> dict[Any, Any]:
    entries = document.get(many) if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) != 1:
        raise KubeconfigError(f"it has not exactly one entry below {many}")
    entry = entries[0].get(one) if isinstance(entries[0], dict) else None
    if not isinstance(entry, dict):
        raise KubeconfigError(f"its entry below {many} has no {one}")
    return entry


def _pem(entry: dict[Any, Any], field: str, what: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str):
        raise KubeconfigError(f"{field} is not there")
    try:
        pem = base64.b64decode(value, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise KubeconfigError(f"{field} is no PEM in base64") from None
    found = _PEM.fullmatch(pem)
    # Private keys come as PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY.
    if found is None or not found["what"].endswith(what):
        raise KubeconfigError(f"{field} is no {what.lower()} in PEM")
    return pem


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
