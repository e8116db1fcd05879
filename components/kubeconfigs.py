"""Kubeconfigs: who a program is, and where it finds the API.

Kubelets, kube-proxy and people go through the load balancer; the controller manager and the scheduler talk to the API
server on their own machine.

Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

import base64

import pulumi
import yaml

from components.pki import Certificate


def kubeconfig(
    *, cluster: str, server: pulumi.Input[str], authority: pulumi.Input[str], user: str, certificate: Certificate
) -> pulumi.Output[str]:
    """A kubeconfig (YAML, secret) with everything inside.

    Args:
        cluster: the name the cluster goes by in it.
        server: https://address:port.
        authority: the certificate (PEM) that the server's certificate is checked against.
        user: the name the user goes by in it.
        certificate: who the user is.
    """
    return pulumi.Output.all(server, authority, certificate.public, certificate.private_key).apply(
        lambda known: render(
            cluster=cluster, server=known[0], authority=known[1], user=user, certificate=known[2], key=known[3]
        )
    )


def render(*, cluster: str, server: str, authority: str, user: str, certificate: str, key: str) -> str:
    """The kubeconfig as YAML, of values that are known."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster,
                    "cluster": {"server": server, "certificate-authority-data": _base64(authority)},
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
        sort_keys=False,
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
