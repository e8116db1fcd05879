"""What must not be seen: the private keys of a lab, as they would look wherever they leak."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n.+?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)
# Shorter strings may stand somewhere by chance.
_LONG_ENOUGH = 12


def private_keys(state: str) -> set[str]:
    """Every private key (PEM) in a state.

    Args:
        state: `pulumi stack export --show-secrets`.
    """
    return {pem for text in _strings(json.loads(state)) for pem in _PEM.findall(text)}


def traces(pem: str) -> set[str]:
    """Strings that only a leak of this key would put anywhere: of its PEM, and of that in base64 (kubeconfigs).

    A PEM also holds the public key, whose base64 stands in certificates: only what the secret alone decides counts.
    """
    lines = pem.strip().splitlines()[1:-1]
    start, end = _base64_of(base64.b64decode("".join(lines)), _secret_number(pem))
    found, at = set(), 0
    for line in lines:
        part = line[max(start - at, 0) : max(end - at, 0)]
        at += len(line)
        if len(part) >= _LONG_ENOUGH:
            first, last = _base64_of(pem.encode(), part.encode())
            found |= {part, base64.b64encode(pem.encode()).decode()[first:last]}
    assert found, "no part of the key would be recognised"
    return found


def _secret_number(pem: str) -> bytes:
    openssh = pem.startswith("-----BEGIN OPENSSH")
    key = load_ssh_private_key(pem.encode(), None) if openssh else load_pem_private_key(pem.encode(), None)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.private_bytes_raw()
    assert isinstance(key, ec.EllipticCurvePrivateKey), f"the stack's keys are ECDSA and Ed25519, not {type(key)}"
    number = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8)
    # OpenSSH's format writes numbers without zeros before them, as one key in 256 has one.
    return number.lstrip(b"\0") if openssh else number


def _base64_of(whole: bytes, part: bytes) -> tuple[int, int]:
    """From where to where the base64 of the whole is decided by the part alone."""
    at = whole.index(part)
    return -(-at * 8 // 6), (at + len(part)) * 8 // 6


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        return
    if isinstance(value, dict):
        # A secret in clear is JSON in a string.
        value = [json.loads(value["plaintext"])] if "plaintext" in value else list(value.values())
    for item in value if isinstance(value, list) else []:
        yield from _strings(item)
