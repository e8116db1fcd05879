"""The versions of a running lab, out of Pulumi's state: a change that it cannot make is refused first."""

from collections.abc import Mapping
from typing import Any

from config import upgrade_record, version_changes
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_GUARD = "::machines-versions"


def check(deployment: Mapping[str, Any], stack: Stack) -> None:
    """Refuse versions that a running lab cannot change to, unless INSIST=yes is in the environment.

    Args:
        deployment: the stack's state, as `pulumi stack export` has it.
        stack: what is wanted.

    Raises:
        ToolchainError: with each of them, and what to do.
    """
    # What cannot be read is the program's to report.
    if stack.versions is None:
        return
    try:
        permitted = upgrade_record.permitted(stack.name)
        version_changes.check(running(deployment), stack.versions, stack.made_by or stack.bootstrap, permitted)
    except version_changes.VersionChangeError as error:
        raise ToolchainError(str(error)) from None


def running(deployment: Mapping[str, Any]) -> dict[str, set[str]]:
    """Product -> the versions that the state has of it.

    The guard (components/version_guard.py) has what the last `up` began with. The outputs have what the last `up` that
    succeeded has made; a lab from before the guard has these alone.
    """
    found: dict[str, set[str]] = {}
    for resource in (deployment.get("deployment") or {}).get("resources") or []:
        outputs = resource.get("outputs") or {}
        recorded: Mapping[str, str] = {}
        if str(resource["urn"]).endswith(_GUARD):
            recorded = version_changes.recorded(outputs)
        elif resource.get("type") == "pulumi:pulumi:Stack":
            recorded = outputs.get("versions") or {}
        for product, version in recorded.items():
            found.setdefault(product, set()).add(version)
    return found
