"""The commands that save and rewind a lab: save, saves, rewind."""

import contextlib
import json
import sys
from dataclasses import asdict

import click
from click.shell_completion import CompletionItem

from cli import stacks
from config.errors import UserError
from toolchain.stack import Stack


def _complete_save(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from live.saves import store

    try:
        return [CompletionItem(name) for name in store.names(stacks.chosen(ctx)) if name.startswith(incomplete)]
    except (UserError, OSError):
        return []


@stacks.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Describe the save as one JSON object.")
def save(stack: Stack, name: str, *, as_json: bool) -> None:
    """Save the whole lab: disks of the machines, Pulumi's state, settings, keys. Then `rewind` brings it back.

    NAME must be new. The machines are paused for some seconds: docs/stop-and-rewind.md.
    """
    from live.saves import save as saving
    from live.saves import store

    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        made = saving.save(stack, name)
    if as_json:
        print(json.dumps(asdict(made), indent=2))
        return
    print(f"save        {store.directory(stack) / name}, {store.shown(made.bytes)}")
    print(f"paused for  {made.paused_seconds} s")
    print("It contains all keys and Secrets of the lab: protect it like a key.")
    print(f"To go back to it: ./hardway rewind -s {stack.name} {name}")


@stacks.command()
@click.option("--json", "as_json", is_flag=True, help="As a JSON list: the dataclass Save in live/saves/store.py.")
@click.option("--remove", metavar="SAVE", shell_complete=_complete_save, help="Remove a save instead.")
def saves(stack: Stack, *, as_json: bool, remove: str | None) -> None:
    """List the saves of a lab."""
    from live.saves import listing, store
    from toolchain import operations

    if remove is not None:
        with operations.alone(stack, "./hardway saves --remove"):
            store.remove(stack, remove)
        print(f"Removed the save {remove} of the lab {stack.name}.")
    elif as_json:
        print(json.dumps([asdict(each) for each in listing.readable(stack)], indent=2))
    else:
        print("\n".join(listing.lines(stack)))


@stacks.command()
@click.argument("name", shell_complete=_complete_save)
def rewind(stack: Stack, name: str) -> None:
    """Make the lab what a save is. What came after the save is lost: docs/stop-and-rewind.md."""
    from live.saves import rewind as rewinding

    rewinding.rewind(stack, name)
