"""The aggregation layer: an extension API is served by the API server, which tells the server behind it who asks."""

import base64
import json
from collections.abc import Iterator

import pytest

from lab.certificate_authority import CertificateAuthority, new_key, pem_of, request
from lab.cluster import Cluster
from lab.extension_api import FLUNDERS, GROUP, LABELS, NAMESPACE, PATH, VERSION, ExtensionApi
from lab.polling import eventually
from lab.workload import Workload

# Both are nobody's: who they are is what the API server says of them.
_USER, _MEMBER, _FRIENDS = "jane", "joe", "fishers"
_FRONT_PROXY = "front-proxy-client"
_MASTERS = {"user": "anybody", "group": "system:masters"}


@pytest.fixture(scope="module")
def extension(workload: Workload) -> Iterator[ExtensionApi]:
    """The extension API, available."""
    made = ExtensionApi(workload=workload)
    made.remove()
    try:
        made.start()
        yield made
    finally:
        made.remove()


def test_an_administrator_uses_it_as_any_other_api(cluster: Cluster, extension: ExtensionApi) -> None:
    """An API server that cannot reach pods, or a front-proxy certificate that the extension does not trust."""
    _create(cluster, "by-admin")
    found = cluster.get("flunders.wardle.example.com", "by-admin", "--namespace", NAMESPACE)
    assert (found["apiVersion"], found["kind"]) == (f"{GROUP}/{VERSION}", "Flunder")
    assert "flunders" in cluster.kubectl("api-resources", "--api-group", GROUP, "--output", "name")


@pytest.mark.parametrize(
    ("who", "subject"),
    [
        (("--as", _USER), {"kind": "User", "name": _USER}),
        (("--as", _MEMBER, "--as-group", _FRIENDS), {"kind": "Group", "name": _FRIENDS}),
    ],
    ids=["a user", "a member of a group"],
)
def test_others_may_do_what_rbac_says(
    cluster: Cluster, extension: ExtensionApi, who: tuple[str, ...], subject: dict[str, str]
) -> None:
    """Names or groups that are lost on the way: the extension asks again whether those who came may do this."""
    get = ("get", "--raw", FLUNDERS, *who)
    refused = cluster.try_kubectl(*get)
    assert refused.returncode != 0
    assert 'cannot list resource "flunders"' in refused.stderr, refused
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "looks"}
    rules = [{"apiGroups": [GROUP], "resources": ["flunders"], "verbs": ["get", "list"]}]
    metadata = {"namespace": NAMESPACE, "labels": LABELS}
    at = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    cluster.apply(
        {**at, "kind": "Role", "metadata": {**metadata, "name": "looks"}, "rules": rules},
        {
            **at,
            "kind": "RoleBinding",
            "metadata": {**metadata, "name": subject["name"]},
            "roleRef": role,
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", **subject}],
        },
    )
    # Every API server gets a binding by itself, and the extension keeps a "no" for 10 s.
    listed = eventually("a list for who may see it", lambda: cluster.kubectl(*get), seconds=60, report=extension.seen)
    assert json.loads(listed)["kind"] == "FlunderList"
    refused = cluster.try_kubectl("create", "-f", "-", *who, stdin=_flunder("by-others"))
    assert 'cannot create resource "flunders"' in refused.stderr, refused
    name, groups = who[1], set(who[3:])
    eventually(
        f"{name} in what the extension has noted",
        lambda: any(
            entry["user"]["username"] == name and groups <= set(entry["user"]["groups"]) for entry in extension.audit()
        ),
        seconds=30,
        report=extension.seen,
    )


def test_extension_server_accepts_headers_with_the_front_proxy_certificate(extension: ExtensionApi) -> None:
    """What it would catch: tests below that are refused for another reason than their certificate."""
    at = f"/etc/kubernetes/pki/{_FRONT_PROXY}"
    front_proxy = f"--cert {at}.crt --key {at}.key"
    status, body = extension.ask_directly(front_proxy, **_MASTERS)
    assert (status, json.loads(body)["kind"]) == (200, "FlunderList"), body
    status, body = extension.ask_directly(front_proxy, user="nobody", group="nobodies")
    assert status == 403, body
    assert 'User "nobody" cannot list resource "flunders"' in json.loads(body)["message"]


def test_headers_without_a_certificate_are_refused(extension: ExtensionApi) -> None:
    """An extension that takes everybody in the pods' network for the API server."""
    status, body = extension.ask_directly("", **_MASTERS)
    assert status in (401, 403), body
    assert status == 401 or 'User "system:anonymous" cannot' in json.loads(body)["message"]


def test_certificate_of_an_untrusted_ca_is_refused(extension: ExtensionApi) -> None:
    """A certificate with the right name, of whomever."""
    leaf = CertificateAuthority("untrusted-ca").client(_FRONT_PROXY)
    status, body = extension.ask_directly(
        '--cert "$at/crt" --key "$at/key"', crt=leaf.certificate, key=leaf.key, **_MASTERS
    )
    assert status == 401, body


def test_certificate_of_the_cluster_ca_is_refused_as_front_proxy(cluster: Cluster, extension: ExtensionApi) -> None:
    """One CA for clients and for the front proxy: a certificate with that name could act as every user."""
    key = new_key()
    certificate = _signed_by_the_cluster(cluster, request(_FRONT_PROXY, key))
    status, body = extension.ask_directly(
        '--cert "$at/crt" --key "$at/key"', crt=certificate, key=pem_of(key), **_MASTERS
    )
    assert status == 403, body
    assert f'User "{_FRONT_PROXY}" cannot list resource "flunders"' in json.loads(body)["message"]


def test_extension_api_leaves_nothing(cluster: Cluster, extension: ExtensionApi) -> None:
    """An APIService without a server behind it, which slows every request for all CRDs."""
    assert extension.left() != ""
    extension.remove()
    assert extension.left() == ""
    for controller in cluster.controllers:
        eventually(
            f"{PATH} gone from {controller.name}",
            lambda at=str(controller.address): "NotFound" in extension.at_api_server(at).stderr,  # type: ignore[misc]
            seconds=60,
        )


def _flunder(name: str) -> str:
    metadata = {"name": name, "namespace": NAMESPACE}
    return json.dumps({"apiVersion": f"{GROUP}/{VERSION}", "kind": "Flunder", "metadata": metadata, "spec": {}})


def _create(cluster: Cluster, name: str) -> None:
    cluster.kubectl("create", "-f", "-", stdin=_flunder(name))


def _signed_by_the_cluster(cluster: Cluster, csr: str) -> str:
    """A client certificate that the cluster's own CA has signed, by the API for that."""
    cluster.apply(
        {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": NAMESPACE, "labels": LABELS},
            "spec": {
                "request": base64.b64encode(csr.encode()).decode(),
                "signerName": "kubernetes.io/kube-apiserver-client",
                "expirationSeconds": 3600,
                "usages": ["client auth"],
            },
        }
    )
    cluster.kubectl("certificate", "approve", NAMESPACE)
    signed = eventually(
        "a certificate of the cluster's authority",
        lambda: cluster.get("certificatesigningrequest", NAMESPACE).get("status", {}).get("certificate"),
        seconds=60,
        report=lambda: str(cluster.get("certificatesigningrequest", NAMESPACE)),
    )
    return base64.b64decode(signed).decode()
