"""How far the rotations of a running lab are, out of Pulumi's state: a stage that is left out is refused."""

from collections.abc import Mapping
from typing import Any

from config.rotations import KEY, Rotations, of_lines, refused
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_RECORD = "rotation-record"


def check(deployment: Mapping[str, Any], stack: Stack) -> None:
    """Refuse a key that comes without the stages before it.

    Args:
        deployment: the stack's state, as `pulumi stack export` has it.
        stack: what is wanted.

    Raises:
        ToolchainError: with each subject, and the way.
    """
    before = recorded(deployment)
    # What cannot be read is the program's to report.
    if before is None or stack.rotations is None:
        return
    if found := refused(before, stack.rotations):
        was = ", ".join(f"{subject}: {stage}" for subject, stage in before.written().items())
        raise ToolchainError(
            f"The lab {stack.name} is up, and a stage of a rotation is left out; nothing was changed.\n"
            + "".join(f"  {each}\n" for each in found)
            + f"Restore the setting {KEY} in {stack.settings_file.name}: "
            + (f"{{{was}}}" if was else "the lab has none")
            + f". `./hardway rotate -s {stack.name}` changes it."
        )


def recorded(deployment: Mapping[str, Any]) -> Rotations | None:
    """The rotations in the state; None where there is no lab."""
    resources = deployment.get("deployment", {}).get("resources") or []
    names = {str(each["urn"]).rpartition("::")[2]: each for each in resources}
    if _RECORD in names:
        return of_lines(str((names[_RECORD].get("outputs") or {}).get("stdout", "")))
    is_made = any(f"hardway:index:{kind}::" in str(each["urn"]) for each in resources for kind in ("Pki", "KubeadmPki"))
    return Rotations() if is_made else None
