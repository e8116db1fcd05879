"""The SSH key of a lab, by which it is known whose the lab is, as Pulumi's state has it."""

from collections.abc import Iterable, Mapping
from typing import Any

_KEY = "::machines-ssh"


def output_of(resources: Iterable[Mapping[str, Any]], output: str) -> str:
    """One output of the resource that is the lab's SSH key; empty where the state has none.

    Args:
        resources: of the state, as `pulumi stack export` has them.
        output: publicKeyOpenssh or publicKeyFingerprintSha256.
    """
    for resource in resources:
        if str(resource["urn"]).endswith(_KEY):
            return str((resource.get("outputs") or {}).get(output) or "").strip()
    return ""
