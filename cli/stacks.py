"""Which stack a command is for: `-s NAME`, before the subcommand or behind it; else STACK, else `dev`."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from config.errors import UserError
from toolchain import paths, stack
from toolchain.stack import Stack

_KEY = "hardway.stack"


def _remember(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
    # `meta` is one dictionary for the command and its subcommand: the value that stands last counts.
    if value is not None:
        ctx.meta[_KEY] = value
    return value


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in stack.names() if name.startswith(incomplete)]


option = click.option(
    "-s",
    "--stack",
    metavar="NAME",
    callback=_remember,
    expose_value=False,
    # Before the arguments: their completion needs the stack.
    is_eager=True,
    shell_complete=_complete,
    help="The lab: one for each Pulumi.NAME.yaml.  [default: dev, or the variable STACK]",
)
"""The option --stack, for the group and for each command that is for a lab."""


def complete_machine(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a machine of the chosen stack."""
    try:
        found = machine_names(name(ctx))
    except (UserError, OSError):
        return []
    return [CompletionItem(each) for each in found if each.startswith(incomplete)]


def machine_names(stack_name: str) -> list[str]:
    """The machines of a running lab; of another one those that its settings file names."""
    try:
        facts = json.loads((paths.state() / stack_name / "lab.json").read_text())
        return [str(machine["name"]) for machine in facts["machines"]]
    except (OSError, ValueError):
        return list(stack.read(stack_name).addresses)


def name(ctx: click.Context) -> str:
    """The name of the chosen stack."""
    return str(ctx.meta.get(_KEY) or os.environ.get("STACK") or "dev")


def chosen(ctx: click.Context) -> Stack:
    """The chosen stack.

    Raises:
        ToolchainError: there is no such stack, or its settings file cannot be read.
    """
    return stack.read(name(ctx))


class LabCommand(click.Command):
    """A command that runs in the checkout, as a target of the Makefile does: relative paths in variables mean it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, and return to the user's directory."""
        before = Path.cwd()
        os.chdir(paths.checkout())
        try:
            return super().invoke(ctx)
        finally:
            os.chdir(before)


def command(
    cls: type[click.Command] = LabCommand, **settings: Any
) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command for a lab: it has the option --stack, and its function is given the chosen stack first.

    Args:
        cls: its class.
        settings: further ones, for `click.command`.

    Raises:
        ToolchainError: when it runs: there is no such stack, or its settings file cannot be read.
    """

    def made(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def run(ctx: click.Context, /, **given: Any) -> int | None:
            return function(chosen(ctx), **given)

        return click.command(cls=cls, **settings)(option(click.pass_context(run)))

    return made


FILE = click.Path(path_type=Path, resolve_path=True)
"""The type of an argument that is a file: what the user names is relative to the user's directory."""

DIRECTORY = click.Path(path_type=Path, resolve_path=True, exists=True, file_okay=False)
"""The type of an option that is a directory, likewise."""
