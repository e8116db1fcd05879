"""The versions of a running lab, out of Pulumi's state: a change that it cannot make is refused first."""

import os
from collections.abc import Collection, Mapping
from typing import Any

from config import upgrade_record, version_changes
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_GUARD = "::machines-versions"
# The step after which a machine is a Node (components/kubeadm.py).
_JOINED = "hardway:index:Kubeadm$command:remote:Command::kubeadm-"


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


def check_joins(
    deployment: Mapping[str, Any], stack: Stack, *, kubernetes: str = "", recreated: Collection[str] = ()
) -> None:
    """Refuse machines that join a cluster of kubeadm's while its version of Kubernetes changes, unless INSIST=yes.

    They have the new kubelet at once, and an API server that is upgraded after that would be older.

    Args:
        deployment: the stack's state, as `pulumi stack export` has it.
        stack: what is wanted.
        kubernetes: the version that is wanted; the settings' if empty.
        recreated: machines that are replaced, and join again.

    Raises:
        ToolchainError: with the machines, and what to do.
    """
    kubernetes = kubernetes or stack.kubernetes
    before = running(deployment).get("kubernetes", set()) - {kubernetes}
    nodes = joined(deployment)
    # The machines of a new lab have no cluster yet.
    if stack.bootstrap != "kubeadm" or not before or not nodes or os.environ.get("INSIST") == "yes":
        return
    if found := [name for name in stack.nodes_by_name if name not in nodes or name in recreated]:
        was = version_changes.oldest(before)
        raise ToolchainError(
            f"Refused, and nothing was changed: {', '.join(found)} would join the lab {stack.name} while its version "
            f"of Kubernetes changes from {was} to {kubernetes}. A machine that joins has the new kubelet at once, and "
            "no kubelet may be newer than an API server. Do one after the other: "
            + (
                f"`./hardway upgrade -s {stack.name} --continue` or `--rollback` ends the unfinished upgrade; "
                "then add or replace machines. "
                if upgrade_record.read(stack.name)
                else f"set lab.versions.kubernetes to {was} and add or replace machines (./hardway up), then "
                f"`./hardway upgrade -s {stack.name} {kubernetes}`. "
            )
            + "INSIST=yes in the environment (--insist) allows it."
        )


def joined(deployment: Mapping[str, Any]) -> set[str]:
    """The machines that have joined a cluster of kubeadm's."""
    urns = [str(each["urn"]) for each in (deployment.get("deployment") or {}).get("resources") or []]
    return {urn.partition(_JOINED)[2] for urn in urns if _JOINED in urn}


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
