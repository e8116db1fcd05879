"""What a running lab was made with, out of Pulumi's state: what differs from it is refused before anything else."""

import re
from collections.abc import Mapping
from typing import Any

from config import choices
from toolchain.errors import ToolchainError
from toolchain.stack import Stack


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
    """The choices that the guard (components/quorum.py) remembers; None where there is no lab."""
    for resource in deployment.get("deployment", {}).get("resources") or []:
        if str(resource["urn"]).endswith("::machines-quorum"):
            said = str(resource.get("outputs", {}).get("stdout", ""))
            found = re.search(r"^[^ \[]+\[(\S*)\] ", said, re.M)
            return choices.read(found[1]) if found else {}
    return None
