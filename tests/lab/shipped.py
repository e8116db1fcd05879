"""The settings files of the stacks that the project brings, as they were when the tests were collected.

Read at import: all processes of pytest have collected the tests before any of them runs one, and a lab's tests change
the file of its stack for a while.
"""

from lab.commands import CHECKOUT

AS_SHIPPED = {path.name.split(".")[1]: path.read_text() for path in sorted(CHECKOUT.glob("Pulumi.*.yaml"))}
"""Stack -> its settings file."""
