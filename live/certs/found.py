"""Certificates in texts and files: what is read of each, and who reads the file."""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtensionOID, NameOID

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END CERTIFICATE-----")
_FIELD = re.compile(r"^ *(client-certificate-data|certificate-authority-data): *\"?([A-Za-z0-9+/=]+)\"? *$", re.M)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is shown of a certificate.

    Args:
        subject: CN, and O where there is one.
        issuer: CN of the CA; "itself" where it is self-signed.
        issuer_key: the first eight digits of the CA's key identifier: two CAs of one name differ in it.
        not_after: the end, RFC 3339.
        fingerprint: SHA-256 of the certificate.
        is_ca: whether it may sign others.
    """

    subject: str
    issuer: str
    issuer_key: str
    not_after: datetime
    fingerprint: str
    is_ca: bool


def of_der(der: bytes) -> Certificate:
    """Read a certificate.

    Raises:
        ValueError: it is none.
    """
    found = x509.load_der_x509_certificate(der)
    try:
        constraints = found.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value
        is_ca = isinstance(constraints, x509.BasicConstraints) and constraints.ca
    except x509.ExtensionNotFound:
        is_ca = False
    return Certificate(
        subject=_name(found.subject),
        issuer="itself" if found.issuer == found.subject else _common_name(found.issuer),
        issuer_key=_issuer_key(found),
        not_after=found.not_valid_after_utc,
        fingerprint=found.fingerprint(SHA256()).hex(),
        is_ca=is_ca,
    )


def in_text(text: str) -> Iterator[tuple[str, Certificate]]:
    """Place and certificate, of all in a file: its PEM blocks, and those in the fields of a kubeconfig.

    Raises:
        ValueError: a block is no certificate.
    """
    yield from (("", of_der(_bytes(body))) for body in _BLOCK.findall(text))
    for field, data in _FIELD.findall(text):
        inner = _bytes(data).decode("ascii", errors="replace")
        yield from ((field, of_der(_bytes(body))) for body in _BLOCK.findall(inner))


def reads_by_path(path: str) -> str:
    """The program that reads a file of kubeadm's: no step starts it."""
    return next((program for pattern, program in _KUBEADM if re.fullmatch(pattern, path)), "")


_PKI = "/etc/kubernetes/pki"
_KUBEADM = (
    (rf"{_PKI}/etcd/(server|peer)\.crt", "etcd"),
    (rf"{_PKI}/etcd/ca\.crt", "etcd, kube-apiserver"),
    (rf"{_PKI}/etcd/healthcheck-client\.crt", "etcd's probes"),
    (rf"{_PKI}/(apiserver.*|front-proxy-.*|ca)\.crt", "kube-apiserver"),
    (r"/etc/kubernetes/controller-manager\.conf", "kube-controller-manager"),
    (r"/etc/kubernetes/scheduler\.conf", "kube-scheduler"),
    (r"/etc/kubernetes/kubelet\.conf|/var/lib/kubelet/pki/kubelet.*", "kubelet.service"),
    (r"/etc/kubernetes/(super-)?admin\.(conf|kubeconfig)", "kubectl"),
)


def _name(name: x509.Name) -> str:
    return ", ".join(part.rfc4514_string() for part in name if part.rfc4514_attribute_name in ("CN", "O"))


def _common_name(name: x509.Name) -> str:
    found = [str(part.value) for part in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return found[0] if found else name.rfc4514_string()


def _issuer_key(found: x509.Certificate) -> str:
    for oid in (ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.SUBJECT_KEY_IDENTIFIER):
        try:
            value = found.extensions.get_extension_for_oid(oid).value
        except x509.ExtensionNotFound:
            if found.issuer != found.subject:
                return ""
            continue
        identifier = value.key_identifier if isinstance(value, x509.AuthorityKeyIdentifier) else None
        identifier = value.digest if isinstance(value, x509.SubjectKeyIdentifier) else identifier
        return identifier.hex()[:8] if identifier else ""
    return ""


def _bytes(text: str) -> bytes:
    return base64.b64decode("".join(text.split()))
