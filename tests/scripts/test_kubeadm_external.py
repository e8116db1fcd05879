"""kubeadm's external CA mode: kubeadm itself takes the certificates and kubeconfigs that the program issues."""

import base64
import datetime
import ipaddress
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from config.versions import pins
from toolchain import paths
from unit.conftest import program
from unit.mocked_engine import Run

INIT, SETTINGS = "kubeadm-controller-0", "/etc/hardway/kubeadm.yaml"
KUBEADM = paths.mirror() / pins().products["kubernetes"].path_of("kubeadm", version="1.36.4", arch="amd64")
USES = {"client_auth": ExtendedKeyUsageOID.CLIENT_AUTH, "server_auth": ExtendedKeyUsageOID.SERVER_AUTH}


class Issued:
    """Real keys and certificates for those that the mocked engine gives: what it writes -> PEM."""

    def __init__(self, run: Run) -> None:
        self.pem: dict[str, str] = {}
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._names: dict[str, x509.Name] = {}
        requests = {each.name: each.inputs for each in run.of_type("tls:index/certRequest:CertRequest")}
        for each in run.of_type("tls:index/selfSignedCert:SelfSignedCert"):
            self._issue(each.name, each.inputs, f"CERTIFICATE-{each.name}", each.inputs["privateKeyPem"], is_ca=True)
        for each in run.of_type("tls:index/locallySignedCert:LocallySignedCert"):
            inputs = {**requests[each.name], "allowedUses": each.inputs["allowedUses"]}
            self._issue(each.name, inputs, each.inputs["caCertPem"], each.inputs["caPrivateKeyPem"])

    def _issue(self, name: str, inputs: Any, issuer: str, issuers_key: str, *, is_ca: bool = False) -> None:
        key = self._key(inputs["privateKeyPem"])
        given = inputs["subject"]
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, given["commonName"])]
        if given.get("organization"):
            parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, given["organization"]))
        subject = self._names[f"CERTIFICATE-{name}"] = x509.Name(parts)
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._names[issuer])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if uses := [USES[use] for use in inputs["allowedUses"] if use in USES]:
            made = made.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        names: list[x509.GeneralName] = [x509.DNSName(each) for each in inputs.get("dnsNames") or ()]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in inputs.get("ipAddresses") or ()]
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = made.sign(self._key(issuers_key), SHA256())
        self.pem[f"CERTIFICATE-{name}"] = signed.public_bytes(Encoding.PEM).decode()

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        if name not in self._keys:
            key = self._keys[name] = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
            self.pem[name] = pem.decode()
        return self._keys[name]

    def real(self, content: str) -> str:
        """A file's content with what is real."""
        if content.strip() in self.pem:
            return self.pem[content.strip()]
        document = yaml.safe_load(content)
        if not isinstance(document, dict) or document.get("kind") != "Config":
            return content
        for entry in (document["clusters"][0]["cluster"], document["users"][0]["user"]):
            for field in [field for field in entry if field.endswith("-data")]:
                pem = self.pem[base64.b64decode(entry[field]).decode().strip()]
                entry[field] = base64.b64encode(pem.encode()).decode()
        return yaml.safe_dump(document)


@pytest.fixture
def kubernetes(tmp_path: Path) -> Path:
    """A root with /etc/kubernetes of the first controller, before kubeadm has begun there."""
    run = program("kubeadm-external")
    issued = Issued(run)
    for path in run.files(INIT):
        if path.startswith("/etc/kubernetes/") and not path.endswith(("sa.key", "sa.pub")):
            secret = path.endswith((".key", ".conf"))
            file = tmp_path / path.removeprefix("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(issued.real(run.secret_file(INIT, path) if secret else run.file(INIT, path)))
            file.chmod(0o600)
    return tmp_path


def phase(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert KUBEADM.exists(), "./hardway setup puts kubeadm into the mirror"
    (root / "kubeadm.yaml").write_text(program("kubeadm-external").file(INIT, SETTINGS))
    (root / "kubeadm").touch()
    # It reads some files in /etc/kubernetes and nowhere else.
    enter = f"mount --bind {KUBEADM} {root}/kubeadm && exec chroot {root} /kubeadm"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{enter} "$@"', "sh", "init", "phase", *arguments, "--config", "/kubeadm.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in (directory / "etc").rglob("*")
        if file.is_file() and file.name not in ("sa.key", "sa.pub")
    }


def test_kubeadm_takes_every_certificate_and_kubeconfig(kubernetes: Path) -> None:
    """A certificate that is missing, of the wrong CA, or without a name that kubeadm asks for."""
    before = content(kubernetes)
    certificates = phase(kubernetes, "certs", "all")
    assert certificates.returncode == 0, certificates.stderr
    assert certificates.stdout.count("keyless certificate authority") == 3, certificates.stdout
    assert certificates.stdout.count("Using existing") == 11, certificates.stdout
    kubeconfigs = phase(kubernetes, "kubeconfig", "all")
    assert kubeconfigs.returncode == 0, kubeconfigs.stderr
    assert kubeconfigs.stdout.count("External CA mode: Using user provided") == 5, kubeconfigs.stdout
    assert content(kubernetes) == before, "kubeadm has written one itself"
    assert "unexpected API Server URL" not in kubeconfigs.stderr


@pytest.mark.parametrize("missing", ["pki/apiserver.crt", "pki/apiserver-kubelet-client.key", "super-admin.conf"])
def test_kubeadm_refuses_without_one_of_them(kubernetes: Path, missing: str) -> None:
    (kubernetes / "etc/kubernetes" / missing).unlink()
    phases = [["certs", "all"], ["kubeconfig", "all"]]
    assert any(phase(kubernetes, *each).returncode for each in phases), (
        "it is not asked for: the other test shows nothing"
    )
