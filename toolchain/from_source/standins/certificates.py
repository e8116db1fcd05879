"""Certificate requests and certificates of the `tls` stand-in, made as Go's crypto/x509 makes them."""

import ipaddress
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from toolchain.from_source.standins import keys
from toolchain.from_source.standins.properties import Properties

_SAME_NAMES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
KEY_USAGES = {name: name for name in (*_SAME_NAMES, "encipher_only", "decipher_only")} | {
    "cert_signing": "key_cert_sign",
    "crl_signing": "crl_sign",
}
"""The provider's name of a usage -> cryptography's."""

EXTENDED_KEY_USAGES = {
    "any_extended": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code_signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email_protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "ipsec_end_system": ObjectIdentifier("1.3.6.1.5.5.7.3.5"),
    "ipsec_tunnel": ObjectIdentifier("1.3.6.1.5.5.7.3.6"),
    "ipsec_user": ObjectIdentifier("1.3.6.1.5.5.7.3.7"),
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp_signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "microsoft_server_gated_crypto": ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
    "netscape_server_gated_crypto": ObjectIdentifier("2.16.840.1.113730.4.1"),
    "microsoft_commercial_code_signing": ObjectIdentifier("1.3.6.1.4.1.311.2.1.22"),
    "microsoft_kernel_code_signing": ObjectIdentifier("1.3.6.1.4.1.311.61.1.1"),
}

# In the order in which Go writes a name.
_SUBJECT = {
    "country": NameOID.COUNTRY_NAME,
    "organization": NameOID.ORGANIZATION_NAME,
    "organizationalUnit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "locality": NameOID.LOCALITY_NAME,
    "province": NameOID.STATE_OR_PROVINCE_NAME,
    "streetAddresses": NameOID.STREET_ADDRESS,
    "postalCode": NameOID.POSTAL_CODE,
    "commonName": NameOID.COMMON_NAME,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}

_SERIAL_BITS = 128


@dataclass(frozen=True, kw_only=True)
class Bearer:
    """Whom a certificate speaks of: the names and the key in it."""

    subject: x509.Name
    names: Sequence[x509.GeneralName]
    public_key: CertificatePublicKeyTypes


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """Who signs a certificate."""

    subject: x509.Name
    key: keys.PrivateKey
    key_id: x509.SubjectKeyIdentifier | None


def bearer(wanted: Properties, key: keys.PrivateKey) -> Bearer:
    """Take the subject, DNS names, IP addresses and URIs from inputs."""
    return Bearer(
        subject=_subject(wanted.get("subject", {})),
        names=[
            *(x509.DNSName(name) for name in wanted.get("dnsNames", [])),
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in wanted.get("ipAddresses", [])),
            *(x509.UniformResourceIdentifier(uri) for uri in wanted.get("uris", [])),
        ],
        public_key=key.public_key(),
    )


def request(wanted: Properties, key: keys.PrivateKey) -> x509.CertificateSigningRequest:
    """Make a certificate request for a key."""
    subject = bearer(wanted, key)
    builder = x509.CertificateSigningRequestBuilder(subject_name=subject.subject)
    if subject.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(subject.names), critical=False)
    return builder.sign(key, keys.signature_hash(key))


def requested(pem: str) -> Bearer:
    """Read whom a certificate request speaks of. Go hands on these kinds of names only.

    Raises:
        ValueError: it is not a certificate request, or its signature is wrong.
    """
    try:
        found = x509.load_pem_x509_csr(pem.encode())
    except ValueError as error:
        raise ValueError(f"Failed to parse certificate request PEM: {error}") from None
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    kinds = (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier)
    return Bearer(
        subject=found.subject,
        names=[name for kind in kinds for name in names if isinstance(name, kind)],
        public_key=found.public_key(),
    )


@lru_cache(maxsize=64)
def authority(certificate_pem: str, key: keys.PrivateKey) -> Issuer:
    """Read a certificate authority.

    Raises:
        ValueError: the certificate or the key cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    except ValueError as error:
        raise ValueError(f"Failed to parse CA certificate PEM: {error}") from None
    try:
        key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key_id = None
    return Issuer(subject=certificate.subject, key=key, key_id=key_id)


def certify(wanted: Properties, subject: Bearer, issuer: Issuer | keys.PrivateKey) -> tuple[str, Properties]:
    """Sign a certificate; a private key as the issuer signs for itself.

    Returns:
        The serial number, and `certPem` with the times from which and until which it is valid.

    Raises:
        ValueError: it would be an authority without a name.
    """
    if wanted["isCaCertificate"] and not subject.subject.rdns:
        raise ValueError("Must contain at least one Distinguished Name when creating Certificate Authority (CA)")
    own_id = _own_key_id(wanted, subject)
    if not isinstance(issuer, Issuer):
        issuer = Issuer(subject=subject.subject, key=issuer, key_id=own_id if wanted["setAuthorityKeyId"] else None)
        if wanted["setAuthorityKeyId"] and own_id is None:
            raise ValueError("Could not determine Authority Key Identifier")
    start = datetime.now(UTC)
    end = start + timedelta(hours=wanted["validityPeriodHours"])
    serial = secrets.randbits(_SERIAL_BITS - 1) + 1
    builder = x509.CertificateBuilder(
        issuer_name=issuer.subject,
        subject_name=subject.subject,
        public_key=subject.public_key,
        serial_number=serial,
        not_valid_before=start,
        not_valid_after=end,
    )
    for extension, critical in _extensions(wanted, subject, own_id, issuer.key_id):
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(issuer.key, keys.signature_hash(issuer.key))
    return str(serial), {
        "certPem": certificate.public_bytes(Encoding.PEM).decode(),
        "validityStartTime": start.isoformat().replace("+00:00", "Z"),
        "validityEndTime": end.isoformat().replace("+00:00", "Z"),
    }


def _extensions(
    wanted: Properties,
    subject: Bearer,
    own_id: x509.SubjectKeyIdentifier | None,
    issuer_id: x509.SubjectKeyIdentifier | None,
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """The extensions of a certificate, and whether each is critical."""
    uses = wanted["allowedUses"]
    usages = {KEY_USAGES[use] for use in uses if use in KEY_USAGES}
    if usages:
        yield x509.KeyUsage(**{name: name in usages for name in KEY_USAGES.values()}), True
    extended = [EXTENDED_KEY_USAGES[use] for use in uses if use in EXTENDED_KEY_USAGES]
    if extended:
        yield x509.ExtendedKeyUsage(extended), False
    is_ca, length = wanted["isCaCertificate"], wanted.get("maxPathLength", -1)
    yield x509.BasicConstraints(ca=is_ca, path_length=int(length) if is_ca and length >= 0 else None), True
    if own_id:
        yield own_id, False
    if issuer_id:
        yield x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), False
    if subject.names:
        yield x509.SubjectAlternativeName(subject.names), not subject.subject.rdns


def _own_key_id(wanted: Properties, subject: Bearer) -> x509.SubjectKeyIdentifier | None:
    if not wanted["isCaCertificate"] and not wanted["setSubjectKeyId"]:
        return None
    return x509.SubjectKeyIdentifier.from_public_key(subject.public_key)


def _subject(wanted: Properties) -> x509.Name:
    return x509.Name(
        x509.RelativeDistinguishedName(x509.NameAttribute(oid, value) for value in _as_list(wanted[name]))
        for name, oid in _SUBJECT.items()
        if wanted.get(name)
    )


def _as_list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]
