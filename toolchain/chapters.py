"""Up to which chapter the state of a lab has it, and what is refused because of that."""

from collections.abc import Mapping
from typing import Any

from config import chapters
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_COMPONENT = "hardway:index:"


def reached(deployment: Mapping[str, Any]) -> str:
    """The last chapter of which the state has something; empty without a lab. A killed run counts: it began it."""
    resources = deployment.get("deployment", {}).get("resources", [])
    return chapters.reached(
        str(each["type"]).removeprefix(_COMPONENT)
        for each in resources
        if str(each["type"]).startswith(_COMPONENT) and not each.get("delete")
    )


def check(deployment: Mapping[str, Any], stack: Stack, until: str) -> None:
    """Refuse to end with a chapter if the lab has a later one: Pulumi would delete what the program no longer creates.

    Args:
        deployment: the state, as the CLI exports it.
        stack: whose.
        until: the chapter; empty for the whole lab.

    Raises:
        ToolchainError: with what the lab has.
    """
    if not until:
        return
    chapters.check_has_chapters(stack.bootstrap)
    found = reached(deployment)
    if found and not chapters.reaches(until, found):
        raise ToolchainError(
            f"Refused, and nothing was changed: the lab {stack.name} has the chapter {found!r} already, and "
            f"`--until {until}` would delete everything after {until!r}, with its data. To begin again there: "
            f"`./hardway destroy -s {stack.name}`, then `./hardway up -s {stack.name} --until {until}`."
        )
