"""A CA of a test's own, which nobody in the lab trusts unless told to."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AGO, _LONG = timedelta(minutes=5), timedelta(hours=6)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A certificate and its key, both PEM."""

    certificate: str
    key: str


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key of the kind that the lab has, too."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def request(common_name: str, key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate signing request, PEM, for a CA that is not the test's."""
    made = x509.CertificateSigningRequestBuilder().subject_name(_name(common_name)).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


class CertificateAuthority:
    """A CA with a key that only this process has."""

    def __init__(self, common_name: str) -> None:
        self._name = _name(common_name)
        self._key = new_key()

    @cached_property
    def certificate(self) -> str:
        """Its own, PEM."""
        made = _builder(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        return made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def server(self, name: str) -> Leaf:
        """A certificate for a server of this DNS name."""
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        return self._leaf(name, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, common_name: str) -> Leaf:
        """A certificate for a client of this name."""
        return self._leaf(common_name, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _leaf(self, common_name: str, use: x509.ObjectIdentifier, *extensions: x509.ExtensionType) -> Leaf:
        key = new_key()
        made = _builder(_name(common_name), self._name, key)
        for extension in (x509.ExtendedKeyUsage([use]), *extensions):
            made = made.add_extension(extension, critical=False)
        signed = made.sign(self._key, hashes.SHA256())
        return Leaf(certificate=signed.public_bytes(Encoding.PEM).decode(), key=pem_of(key))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _AGO)
        .not_valid_after(now + _LONG)
    )
