"""TLS servers of the lab, asked from the host: what they show, whom they let in, what they refuse."""

import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

_SECONDS = 20


def anyone() -> ssl.SSLContext:
    """A client without a certificate that trusts every server."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def with_certificate(certificate: Path) -> ssl.SSLContext:
    """A client with a certificate.

    Args:
        certificate: a file with the certificate and its key, PEM.
    """
    context = anyone()
    context.load_cert_chain(certificate)
    return context


def not_above(version: ssl.TLSVersion, certificate: Path | None) -> ssl.SSLContext:
    """A client that speaks no later version of TLS than this, with or without a certificate."""
    context = with_certificate(certificate) if certificate else anyone()
    # Today's default does not let a client try the old versions at all.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    return context


def fetch(
    url: str, context: ssl.SSLContext | None = None, token: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Status and body of an answer, whatever the status.

    Raises:
        OSError: there was no answer.
    """
    sent = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def refusal(ask: Callable[[], object]) -> str:
    """What a server said when it refused the connection."""
    try:
        answer = ask()
    except OSError as error:
        return str(error)
    raise AssertionError(f"let in: {answer}")


def served_by(address: str, port: int) -> x509.Certificate:
    """The certificate that a server shows."""
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((address, port), timeout=_SECONDS).encode())


def alternative_names(certificate: x509.Certificate) -> set[str]:
    """DNS names and addresses of a certificate."""
    names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def subject(certificate: x509.Certificate) -> tuple[str, str | None]:
    """Common name and organisation."""

    def one(oid: x509.ObjectIdentifier) -> str | None:
        found = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]
        assert len(found) < 2, found
        return found[0] if found else None

    return one(NameOID.COMMON_NAME) or "", one(NameOID.ORGANIZATION_NAME)
