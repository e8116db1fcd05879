"""Up to which chapter the state of a lab has it, and what is refused because of that."""

from collections.abc import Mapping
from typing import Any

from config import chapters
from toolchain.errors import ToolchainError
from toolchain.stack import Stack


def reached(deployment: Mapping[str, Any]) -> str:
    """The last chapter of which the state has something; empty without a lab. A killed run counts: it began it."""
    return chapters.reached_by(deployment.get("deployment", {}).get("resources", []))


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
    if why := chapters.refusal(stack.name, until, reached(deployment)):
        raise ToolchainError(why)
