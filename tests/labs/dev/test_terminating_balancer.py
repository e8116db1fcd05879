"""The way in whose TLS ends at the balancer: /healthz for everybody, the API for tokens, nothing for certificates."""

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab.cluster import Cluster
from lab.polling import eventually

SECONDS = 20
USER = "by-domain"


@pytest.fixture(scope="module")
def token(cluster: Cluster) -> Iterator[str]:
    """What shows that one is a user who may look at everything."""
    cluster.kubectl("create", "serviceaccount", USER)
    cluster.kubectl("create", "clusterrolebinding", USER, "--clusterrole=view", f"--serviceaccount=default:{USER}")
    yield cluster.kubectl("create", "token", USER).strip()
    cluster.kubectl("delete", f"serviceaccount/{USER}", f"clusterrolebinding/{USER}")


@pytest.fixture(scope="module")
def certificate(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The balancer's own, as it stands on its machine."""
    file = tmp_path_factory.mktemp("domain") / "domain.crt"
    file.write_text(cluster.ssh(cluster.balancer.name, "openssl x509 -in /etc/haproxy/domain.pem"))
    return file


def domain(cluster: Cluster) -> str:
    name = cluster.settings.settings.load_balancing.domain
    assert name is not None
    return name


def unverified() -> ssl.SSLContext:
    """What `curl -k` trusts: everybody."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def ask(cluster: Cluster, path: str, trusted: ssl.SSLContext, **headers: str) -> tuple[int, str]:
    """Status and body of what the balancer answers at the domain."""
    address = (str(cluster.balancer.address), 443)
    connection = http.client.HTTPSConnection(domain(cluster), timeout=SECONDS)
    connection.sock = trusted.wrap_socket(socket.create_connection(address, SECONDS), server_hostname=domain(cluster))
    try:
        connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_anonymous_clients_may_request_healthz(cluster: Cluster) -> None:
    """What lab 3 asks in the end."""
    assert ask(cluster, "/healthz", unverified()) == (200, "ok")


def test_its_certificate_is_its_own_and_of_the_domain(cluster: Cluster, certificate: Path) -> None:
    assert ask(cluster, "/healthz", ssl.create_default_context(cafile=certificate)) == (200, "ok")
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        ask(cluster, "/healthz", ssl.create_default_context())


def test_every_machine_knows_the_domain(cluster: Cluster) -> None:
    for machine in cluster.machines:
        assert cluster.ssh(machine.name, f"getent hosts {domain(cluster)}").split()[0] == str(cluster.balancer.address)


def test_api_server_certificate_has_the_domain(cluster: Cluster) -> None:
    question = f"curl -sf --cacert /etc/kubernetes/pki/ca.crt https://{domain(cluster)}:6443/healthz"
    assert cluster.ssh(cluster.controller.name, question) == "ok"


def test_a_token_opens_the_api(cluster: Cluster, certificate: Path, token: str) -> None:
    trusted = ssl.create_default_context(cafile=certificate)
    path = "/api/v1/namespaces/default/services"
    answer: list[tuple[int, str]] = []

    def let_in() -> bool:
        answer[:] = [ask(cluster, path, trusted, Authorization=f"Bearer {token}")]
        return answer[0][0] == 200

    # The API server gets a new binding some time after it has taken it.
    eventually("an answer to the token", let_in, seconds=30, report=lambda: str(answer))
    assert "kubernetes" in {item["metadata"]["name"] for item in json.loads(answer[0][1])["items"]}
    assert ask(cluster, path, trusted, Authorization=f"Bearer {token[:-4]}AAAA")[0] == 401


def test_an_administrators_certificate_does_not(cluster: Cluster, tmp_path: Path) -> None:
    user = yaml.safe_load((cluster.directory / "kubeconfig").read_text())["users"][0]["user"]
    both = tmp_path / "admin.pem"
    both.write_bytes(b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")))
    trusted = unverified()
    trusted.load_cert_chain(both)
    # Who comes without a token is nobody, and nobody may ask for health alone.
    assert ask(cluster, "/api/v1/nodes", trusted)[0] == 401
    assert ask(cluster, "/healthz", trusted) == (200, "ok")


def test_clients_cannot_act_as_the_front_proxy(cluster: Cluster) -> None:
    pretending = {"X_Remote_User": "admin", "X_Remote_Group": "system:masters"}
    assert ask(cluster, "/api/v1/nodes", unverified(), **pretending)[0] == 401


def test_old_tls_is_refused(cluster: Cluster) -> None:
    old = unverified()
    # Of itself OpenSSL would not even ask.
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol|alert"):
        ask(cluster, "/healthz", old)
