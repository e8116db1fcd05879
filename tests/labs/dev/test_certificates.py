"""The identities in the certificates, and which endpoint accepts which."""

import base64
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lab import tls
from lab.cluster import Cluster
from lab.commands import live

_API, _ETCD, _PEERS, _KUBELET = 6443, 2379, 2380, 10250


@pytest.fixture(scope="module")
def admin(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """The administrator, by a certificate of the Kubernetes CA."""
    user = yaml.safe_load((cluster.directory / "kubeconfig").read_text())["users"][0]["user"]
    pem = b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key"))
    return tls.with_certificate(_private_file(tmp_path_factory, pem))


@pytest.fixture(scope="module")
def etcd_client(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The API server, by its certificate of the etcd authority: a file with the key, too."""
    at = "/etc/kubernetes/pki/apiserver-etcd-client"
    pem = cluster.ssh(cluster.controller.name, f"cat {at}.crt {at}.key")
    return _private_file(tmp_path_factory, pem.encode())


def test_api_server_certificate_has_every_name(cluster: Cluster) -> None:
    """ "kubernetes.svc.cluster.local" for "kubernetes.default.svc.cluster.local"; no first service address; no
    balancer.
    """
    names = tls.alternative_names(tls.served_by(str(cluster.balancer.address), _API))
    assert names >= {
        "127.0.0.1",
        str(cluster.settings.network.api_service),
        str(cluster.controller.address),
        str(cluster.balancer.address),
        cluster.balancer.fqdn,
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    }
    assert "kubernetes.svc.cluster.local" not in names


def test_a_kubelet_is_its_node_by_name_and_address(cluster: Cluster) -> None:
    """A kubelet certificate without the node's address: logs and exec fail."""
    for worker in cluster.workers:
        shown = tls.served_by(str(worker.address), _KUBELET)
        assert tls.subject(shown) == (f"system:node:{worker.name}", "system:nodes")
        assert tls.alternative_names(shown) == {worker.name, worker.fqdn, str(worker.address), "127.0.0.1"}


@pytest.mark.parametrize(
    ("file", "name", "organisation"),
    [
        ("kube-scheduler", "system:kube-scheduler", "system:kube-scheduler"),
        ("kube-controller-manager", "system:kube-controller-manager", "system:kube-controller-manager"),
        ("kube-apiserver", "kubernetes", None),
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", None),
        ("apiserver-etcd-client", "kube-apiserver-etcd-client", None),
        ("front-proxy-client", "front-proxy-client", None),
    ],
)
def test_a_certificate_names_its_owner(cluster: Cluster, file: str, name: str, organisation: str | None) -> None:
    """An organisation "system:system:kube-scheduler", or system:masters for who is bound by RBAC."""
    text = cluster.ssh(cluster.controller.name, f"cat /etc/kubernetes/pki/{file}.crt")
    assert tls.subject(x509.load_pem_x509_certificate(text.encode())) == (name, organisation)


def test_the_three_cas_are_different(cluster: Cluster) -> None:
    """One CA for all: any certificate could read etcd, or claim to be the front proxy."""
    names = ("ca", "etcd-ca", "front-proxy-ca")
    files = [cluster.ssh(cluster.controller.name, f"cat /etc/kubernetes/pki/{name}.crt") for name in names]
    keys = {x509.load_pem_x509_certificate(text.encode()).public_key().public_numbers() for text in files}  # type: ignore[union-attr]
    assert len(keys) == 3


def test_etcd_accepts_only_clients_of_its_own_ca(cluster: Cluster, admin: ssl.SSLContext, etcd_client: Path) -> None:
    """An etcd that anybody reads, or anybody with a certificate of the cluster."""
    url = f"https://{cluster.controller.address}:{_ETCD}/health"
    assert tls.fetch(url, tls.with_certificate(etcd_client))[0] == 200
    for other in (tls.anyone(), admin):
        # How it says no is a race between its alert and the end of the connection.
        assert tls.refusal(lambda context=other: tls.fetch(url, context))  # type: ignore[misc]


@pytest.mark.parametrize("port", [_ETCD, _PEERS])
def test_etcd_speaks_no_plain_http(cluster: Cluster, port: int) -> None:
    """etcd's client or peer port without TLS."""
    assert tls.refusal(lambda: tls.fetch(f"http://{cluster.controller.address}:{port}/version"))


def test_etcd_peers_require_a_certificate(cluster: Cluster) -> None:
    """A peer port that accepts a client without a certificate of the lab."""
    url = f"https://{cluster.controller.address}:{_PEERS}/members"
    assert tls.refusal(lambda: tls.fetch(url, tls.anyone()))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
@pytest.mark.parametrize("port", [_API, _ETCD, _KUBELET])
def test_tls_1_1_is_refused(cluster: Cluster, etcd_client: Path, port: int) -> None:
    """A server that takes TLS below 1.2. The same client gets through with 1.2."""
    machine = cluster.workers[0] if port == _KUBELET else cluster.controller
    certificate = etcd_client if port == _ETCD else None
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        _shake_hands(str(machine.address), port, tls.not_above(ssl.TLSVersion.TLSv1_1, certificate))
    spoken = _shake_hands(str(machine.address), port, tls.not_above(ssl.TLSVersion.TLSv1_2, certificate))
    assert spoken == "TLSv1.2"


def test_kubelet_refuses_anonymous_requests(cluster: Cluster) -> None:
    """Anonymous requests to the kubelet's API: exec into any pod for everybody."""
    for worker in cluster.workers:
        assert tls.fetch(f"https://{worker.address}:{_KUBELET}/pods", tls.anyone())[0] == 401


def test_the_kubelets_read_only_port_is_closed(cluster: Cluster) -> None:
    """Port 10255: every pod's environment for everybody."""
    for worker in cluster.workers:
        assert "refused" in tls.refusal(lambda at=worker.address: tls.fetch(f"http://{at}:10255/pods"))  # type: ignore[misc]


def _shake_hands(address: str, port: int, context: ssl.SSLContext) -> str | None:
    with socket.create_connection((address, port), timeout=20) as plain, context.wrap_socket(plain) as secure:
        return secure.version()


def _private_file(factory: pytest.TempPathFactory, pem: bytes) -> Path:
    file = factory.mktemp("client") / "client.pem"
    file.touch(mode=0o600)
    file.write_bytes(pem)
    return file


def test_exported_files_are_the_labs_own_and_fit_together(cluster: Cluster, tmp_path: Path) -> None:
    """A certificate with another key, or of another CA; another kubeconfig; keys that others may read."""
    made = tmp_path / "pki-of-the-lab"
    ran = live("pki", "export", str(made))
    assert ran.code == 0, ran.output
    assert {path.stat().st_mode & 0o077 for path in (made, *made.rglob("*"))} == {0}
    pki = made / "pki"
    for ca, leaves in {
        "ca/ca.pem": ["admin/admin", "api/kubernetes", "clients/worker-0", "scheduler/kube-scheduler"],
        "etcd/etcd-ca.pem": [f"etcd/{cluster.controller.name}", "api/apiserver-etcd-client"],
        "front-proxy/front-proxy-ca.pem": ["front-proxy/front-proxy-client"],
    }.items():
        files = [str(pki / f"{leaf}.pem") for leaf in leaves]
        verified = subprocess.run(["openssl", "verify", "-CAfile", pki / ca, *files], capture_output=True, text=True)
        assert verified.stdout.count(": OK\n") == len(leaves), verified
        for leaf in leaves:
            public = x509.load_pem_x509_certificate((pki / f"{leaf}.pem").read_bytes()).public_key()
            key = serialization.load_pem_private_key((pki / f"{leaf}-key.pem").read_bytes(), None)
            assert key.public_key() == public, leaf
    assert served(cluster) == (pki / "api/kubernetes.pem").read_text().strip()
    admin = made / "configs/admin/admin.kubeconfig"
    assert admin.read_text() == (cluster.directory / "kubeconfig").read_text()
    again = live("pki", "export", str(made))
    assert again.code == 1 and f"{made} exists." in again.output, again.output


def served(cluster: Cluster) -> str:
    """The certificate that the API server has, PEM."""
    return ssl.get_server_certificate((str(cluster.controller.address), _API)).strip()
