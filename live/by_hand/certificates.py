"""What two certificates say, compared: subject, issuer, SANs and usage, not the key and not the number."""

from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

_BEGINS = b"-----BEGIN CERTIFICATE-----"


def is_certificate(content: bytes) -> bool:
    """Whether a file has a certificate and no key."""
    return content.lstrip().startswith(_BEGINS) and b"PRIVATE KEY" not in content


def differences(expected: bytes, found: bytes) -> list[str]:
    """What a certificate says that another one does not, in words; empty where both say the same."""
    try:
        wanted, there = x509.load_pem_x509_certificate(expected), x509.load_pem_x509_certificate(found)
    except ValueError:
        return ["it is no certificate in PEM"]
    return list(_differences(wanted, there))


def _differences(wanted: x509.Certificate, there: x509.Certificate) -> Iterator[str]:
    for what, expected, found in (
        ("subject", wanted.subject.rfc4514_string(), there.subject.rfc4514_string()),
        ("issuer", wanted.issuer.rfc4514_string(), there.issuer.rfc4514_string()),
        ("SANs", _names(wanted), _names(there)),
        ("usage", _usage(wanted), _usage(there)),
    ):
        if expected != found:
            yield f"{what} {found or 'none'}, expected {expected or 'none'}"
    issuer, other = _issuer_key(wanted), _issuer_key(there)
    # Two CAs may have one name.
    if issuer and other and issuer != other:
        yield "it was issued with another key than that of the lab's CA"


def _names(certificate: x509.Certificate) -> str:
    try:
        value = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return ", ".join(sorted(str(each.value) for each in value))


def _usage(certificate: x509.Certificate) -> str:
    found: list[str] = []
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage):
            found += [each._name for each in value]
        elif isinstance(value, x509.BasicConstraints) and value.ca:
            found.append("CA")
    return ", ".join(sorted(found))


def _issuer_key(certificate: x509.Certificate) -> bytes:
    try:
        value = certificate.extensions.get_extension_for_oid(ExtensionOID.AUTHORITY_KEY_IDENTIFIER).value
    except x509.ExtensionNotFound:
        return b""
    return (value.key_identifier or b"") if isinstance(value, x509.AuthorityKeyIdentifier) else b""
