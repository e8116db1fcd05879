"""The settings files of the stacks that the project brings, as they were when the tests were collected.

Read at import: all processes of pytest have collected the tests before any of them runs one, and a lab's tests change
the file of its stack for a while.
"""

from typing import Any

import yaml

from config import paths
from lab.commands import CHECKOUT

FOR_USERS = {path.name.split(".")[1]: path.read_text() for path in sorted(CHECKOUT.glob("Pulumi.*.yaml"))}
"""Stack -> its settings file, of the labs that a user may choose."""
AS_SHIPPED = FOR_USERS | {
    path.name.split(".")[1]: path.read_text() for path in sorted(paths.stacks_of_tests().glob("Pulumi.*.yaml"))
}
"""The same of all labs, those of tests and benchmarks, too."""


def lab_of(stack: str) -> Any:
    """The `lab` value of a shipped stack."""
    document = yaml.safe_load(AS_SHIPPED[stack])
    return document["config"]["hardway:lab"]


def shipped_stacks() -> list[str]:
    """The names of all stacks that the project brings."""
    return sorted(AS_SHIPPED)
