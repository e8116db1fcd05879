"""The versions of a running lab, out of Pulumi's state: a change that it cannot make is refused first."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from config import version_changes
from config.versions import pins
from toolchain.errors import ToolchainError
from toolchain.stack import Stack


def check(deployment: Mapping[str, Any], stack: Stack) -> None:
    """Refuse versions that a running lab cannot change to, unless INSIST=yes is in the environment.

    Args:
        deployment: the stack's state, as `pulumi stack export` has it.
        stack: what is wanted.

    Raises:
        ToolchainError: with each of them, and the way.
    """
    # What cannot be read is the program's to report.
    if stack.versions is None or os.environ.get("INSIST") == "yes":
        return
    found = list(version_changes.refusals(running(deployment), stack.versions, bootstrap=stack.bootstrap))
    if found:
        raise ToolchainError(version_changes.report(found))


def running(deployment: Mapping[str, Any]) -> dict[str, set[str]]:
    """Product -> the versions that the state has of it: by the guard, and by what the steps' scripts fetch."""
    found: dict[str, set[str]] = {}
    patterns = {name: re.compile(_pattern(product.path)) for name, product in pins().products.items()}
    for resource in deployment.get("deployment", {}).get("resources") or []:
        if str(resource["urn"]).endswith("::machines-versions"):
            said = str(resource.get("outputs", {}).get("stdout", "")).strip()
            for product, version in version_changes.read(said).items():
                found.setdefault(product, set()).add(version)
        for script in _scripts(resource):
            for product, pattern in patterns.items():
                for match in pattern.finditer(script):
                    found.setdefault(product, set()).add(match["version"])
    return found


def _scripts(resource: Mapping[str, Any]) -> Iterator[str]:
    """What a step runs. Where it has secrets, its input is secret, and a resource beside it has the script."""
    for name in ("stdin", "script"):
        if isinstance(text := resource.get("inputs", {}).get(name), str):
            yield from (line for line in text.splitlines() if line.startswith("fetch "))


def _pattern(path: str) -> str:
    """Of a line that fetches a file of a product, by its path at upstream's."""
    words = re.escape(path).replace(r"\{version\}", r"(?P<version>[0-9]+\.[0-9]+\.[0-9]+)", 1)
    for name in ("version", "arch", "artifact"):
        words = words.replace(rf"\{{{name}\}}", r"[^/ ]+")
    return words
