"""What Google Cloud has of a lab and Pulumi's state has not: a run was killed between making and noting it.

The provider does not take over what is there already, so that the next `up` would fail on the name. What carries the
lab's key is deleted; what another state has made under the lab's names is refused, also where this state has resources
of these names: the provider finds them by name (components/substrates/gcp/owner.py).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolchain import lab_key
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_KINDS = {
    "gcp:compute/address:Address": "addresses",
    "gcp:compute/firewall:Firewall": "firewalls",
    "gcp:compute/forwardingRule:ForwardingRule": "forwardingRules",
    "gcp:compute/httpHealthCheck:HttpHealthCheck": "httpHealthChecks",
    "gcp:compute/instance:Instance": "instances",
    "gcp:compute/instanceGroup:InstanceGroup": "instanceGroups",
    "gcp:compute/network:Network": "networks",
    "gcp:compute/regionBackendService:RegionBackendService": "backendServices",
    "gcp:compute/regionHealthCheck:RegionHealthCheck": "healthChecks",
    "gcp:compute/route:Route": "routes",
    "gcp:compute/subnetwork:Subnetwork": "subnetworks",
    "gcp:compute/targetPool:TargetPool": "targetPools",
    "gcp:serviceaccount/account:Account": "serviceAccounts",
}
"""Type of a resource -> the kind that Google's API has it under."""


def remove(deployment: Mapping[str, Any], stack: Stack) -> list[str]:
    """Delete the strays of a lab.

    Args:
        deployment: its state, by `pulumi stack export`.
        stack: whose lab.

    Returns:
        What was deleted, e.g. "networks/hardway-gcp".

    Raises:
        ToolchainError: what has the names in this state is another lab's, or Google cannot be asked.
    """
    state = deployment.get("deployment") or {}
    resources = state.get("resources") or []
    operations = [each for each in state.get("pending_operations") or [] if each.get("type") == "creating"]
    pending = list(_named(each["resource"] for each in operations))
    known = list(_named(resources))
    fingerprint = lab_key.output_of(resources, lab_key.FINGERPRINT)
    # Before the first of Google's resources there is nothing that a run could have left.
    if not fingerprint or not (known or pending):
        return []
    if not stack.gcp_project:
        # The program's report says what to write.
        return []
    words = ("--project", stack.gcp_project, "--lab", stack.name, "--fingerprint", fingerprint)
    done = lab_key.ask_owner("gcp", *words, stdin=json.dumps({"known": known, "pending": pending}))
    if done.returncode != 0:
        gone = f"\nDeleted before that: {', '.join(done.stdout.split())}." if done.stdout else "\nNothing was changed."
        raise ToolchainError(f"{done.stderr.strip()}{gone}")
    return done.stdout.split()


def _named(resources: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Kind and name of Google's resources among others."""
    for resource in resources:
        inputs = resource.get("inputs") or {}
        name = inputs.get("name") or inputs.get("accountId")
        if (kind := _KINDS.get(str(resource.get("type")))) and isinstance(name, str):
            yield kind, name
