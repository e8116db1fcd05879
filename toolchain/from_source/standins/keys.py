"""Private keys of the `tls` stand-in: generation, reading and the formats they are given in."""

import hashlib
from base64 import b64decode, b64encode
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from toolchain.from_source.standins.properties import Properties

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

OPENSSH_FORMATS = ("privateKeyOpenssh", "publicKeyOpenssh", "publicKeyFingerprintMd5", "publicKeyFingerprintSha256")
ALGORITHMS = ("RSA", "ECDSA", "ED25519")
CURVES: dict[str, ec.EllipticCurve] = {
    "P224": ec.SECP224R1(),
    "P256": ec.SECP256R1(),
    "P384": ec.SECP384R1(),
    "P521": ec.SECP521R1(),
}


def generate(algorithm: str, *, rsa_bits: int, curve: str) -> PrivateKey:
    """Make a new key; the size counts for RSA only, the curve for ECDSA only."""
    if algorithm == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)
    if algorithm == "ECDSA":
        return ec.generate_private_key(CURVES[curve])
    return ed25519.Ed25519PrivateKey.generate()


# One authority's key signs many certificates, and an RSA key is checked at length each time it is read.
@lru_cache(maxsize=64)
def read(pem: str) -> PrivateKey:
    """Read a private key in PEM: PKCS#1, SEC 1 or PKCS#8.

    Raises:
        ValueError: it is none of these, or its algorithm is not supported. The message does not show the key.
    """
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("Failed to parse private key PEM: it must be an unencrypted private key") from None
    if not isinstance(key, PrivateKey):
        raise ValueError(f"Failed to parse private key PEM: {type(key).__name__} is not supported")
    return key


def algorithm_of(key: PrivateKey) -> str:
    """The algorithm's name as the provider writes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePrivateKey) else "ED25519"


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """The hash to sign with: as strong as the key; Ed25519 has its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256:
        return hashes.SHA384() if key.key_size == 384 else hashes.SHA512()
    return hashes.SHA256()


def formats(key: PrivateKey) -> tuple[str, Properties]:
    """The id of a key and every format it is given in, under the names of the provider's outputs."""
    public = key.public_key()
    traditional = (
        PrivateFormat.PKCS8 if isinstance(key, ed25519.Ed25519PrivateKey) else PrivateFormat.TraditionalOpenSSL
    )
    identity = hashlib.sha1(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    return identity, {
        "privateKeyPem": _pem(key, traditional),
        "privateKeyPemPkcs8": _pem(key, PrivateFormat.PKCS8),
        "publicKeyPem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    } | _openssh(key)


def _openssh(key: PrivateKey) -> Properties:
    # SSH has no such curve.
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP224R1):
        return dict.fromkeys(OPENSSH_FORMATS, "")
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    blob = b64decode(line.split()[1])
    md5 = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return {
        "privateKeyOpenssh": _pem(key, PrivateFormat.OpenSSH),
        "publicKeyOpenssh": f"{line}\n",
        "publicKeyFingerprintMd5": ":".join(md5[i : i + 2] for i in range(0, len(md5), 2)),
        "publicKeyFingerprintSha256": "SHA256:" + b64encode(hashlib.sha256(blob).digest()).decode().rstrip("="),
    }


def _pem(key: PrivateKey, form: PrivateFormat) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
