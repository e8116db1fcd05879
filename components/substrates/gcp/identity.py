"""Whose a resource on Google Cloud is: the lab's name and key, in its labels, or in its description.

The key is the lab's SSH key; its identity is the fingerprint that `ssh-keygen -l` shows, as the first 40 hexadecimal
digits of it: labels have neither capitals nor more than 63 letters. Most kinds of resources have no labels.

Source: https://cloud.google.com/compute/docs/labeling-resources
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LAB_LABEL = "hardway-lab"
KEY_LABEL = "hardway-key"
_DIGITS = 40
_DESCRIPTION = re.compile(rf"{LAB_LABEL}=([a-z0-9-]+) {KEY_LABEL}=([0-9a-f]+)")


@dataclass(frozen=True)
class Mark:
    """What a resource says of its lab.

    Args:
        lab: the stack's name; empty where it says nothing.
        identity: of the lab's key; empty where it says nothing, or was made by a version without it.
    """

    lab: str = ""
    identity: str = ""


def identity_of(fingerprint: str) -> str:
    """The identity of a key.

    Args:
        fingerprint: as OpenSSH and the tls provider write it: SHA256:, and base64 without padding.
    """
    encoded = fingerprint.strip().removeprefix("SHA256:")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).hex()[:_DIGITS]


def description(lab: str, identity: str) -> str:
    """What stands in the description of a resource that has no labels."""
    return f"{LAB_LABEL}={lab} {KEY_LABEL}={identity}"


def mark_of(resource: Mapping[str, Any]) -> Mark:
    """The mark of a resource, as Google's API describes it."""
    labels = resource.get("labels") or {}
    if LAB_LABEL in labels:
        return Mark(lab=str(labels[LAB_LABEL]), identity=str(labels.get(KEY_LABEL, "")))
    found = _DESCRIPTION.fullmatch(str(resource.get("description", "")))
    return Mark(lab=found[1], identity=found[2]) if found else Mark()
