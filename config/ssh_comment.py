"""The last word of the lines that a rotation of the SSH key writes into a file authorized_keys: whose lab it is.

Once a key was rotated its fingerprint is not the lab's identity, which stays that of the first key.
"""

_LAB = "hardway-"
_FINGERPRINT = "SHA256:"


def comment(lab: str, identity: str) -> str:
    """The word.

    Args:
        lab: its name.
        identity: the fingerprint of its first key.
    """
    return f"{_LAB}{lab}:{identity}"


def identity_of(line: str) -> str:
    """The identity in a line; empty if a rotation did not write it."""
    lab, _, identity = (line.split() or [""])[-1].partition(":")
    return identity if lab.startswith(_LAB) and identity.startswith(_FINGERPRINT) else ""
