"""The fingerprint of an SSH key, by which it is known whose a lab is. Standard library only: see owner.py."""

import base64
import binascii
import hashlib


def fingerprint(key: str) -> str:
    """The fingerprint of a public key, as ssh-keygen and the tls provider write it; empty for what is no key."""
    words = key.split()
    if len(words) < 2 or not words[0].startswith(("ssh-", "ecdsa-", "sk-")):
        return ""
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error:
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
