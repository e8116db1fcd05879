"""What a running lab was made with, out of Pulumi's state: what differs from it is refused before anything else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from config import choices
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_CA_KEY = re.compile(r"\$tls:index/privateKey:PrivateKey::pki-kubernetes-ca(-rotated-[0-9]+)?$")


def check(deployment: Mapping[str, Any], stack: Stack) -> None:
    """Refuse settings that a running lab cannot be changed to.

    Args:
        deployment: the stack's state, as `pulumi stack export` has it.
        stack: what is wanted.

    Raises:
        ToolchainError: with each of them, and the way.
    """
    before = made_with(deployment)
    # What cannot be read is the program's to report.
    if before is None or stack.choices is None:
        return
    if found := choices.differences(before, stack.choices):
        raise ToolchainError(
            f"The lab {stack.name} is up, and this setting is immutable; nothing was changed.\n"
            + "".join(f"  {difference}\n" for difference in found)
            + f"Restore the setting, or recreate the lab: `./hardway destroy -s {stack.name}`, then `./hardway up`."
        )


def made_with(deployment: Mapping[str, Any]) -> dict[str, str] | None:
    """The immutable settings in the state; None where there is no lab.

    A lab of an earlier version has them in the guard of the quorum (components/quorum.py), and the algorithm of its
    keys only in its CA.
    """
    resources: list[Mapping[str, Any]] = deployment.get("deployment", {}).get("resources") or []
    said = {
        str(resource["urn"]).rpartition("::")[2]: str((resource.get("outputs") or {}).get("stdout", ""))
        for resource in resources
    }
    if recorded := said.get("machines-settings"):
        return _algorithm(resources) | choices.read(recorded)
    if " " not in (older := said.get("machines-quorum", "")):
        return None
    found = re.search(r"^[^ \[]+\[(\S*)\] ", older, re.M)
    return _algorithm(resources) | (choices.of_word(found[1]) if found else {})


def _algorithm(resources: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The algorithm of the key of the Kubernetes CA, as a setting; empty where the state has no such key."""
    for resource in resources:
        # A resource that a replacement left, and that is still to be deleted, has the algorithm before.
        if _CA_KEY.search(str(resource["urn"])) and not resource.get("delete"):
            key = resource.get("inputs") or {}
            is_rsa = key.get("algorithm") == "RSA"
            return {choices.ALGORITHM: f"RSA-{int(key['rsaBits'])}" if is_rsa else f"ECDSA-{key['ecdsaCurve']}"}
    return {}
