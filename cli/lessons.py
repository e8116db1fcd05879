"""The commands for lessons: lesson list, start, hint, check, solve, reset."""

import click
from click.shell_completion import CompletionItem

from cli import stacks
from config.errors import UserError
from toolchain.stack import Stack


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from live.lessons.lesson import read_all

    try:
        return [CompletionItem(each.name, help=each.title) for each in read_all() if each.name.startswith(incomplete)]
    except (UserError, OSError):
        return []


@click.group()
@stacks.option
def lesson() -> None:
    """Find and repair a fault in a running lab: docs/lessons.md."""


@stacks.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def list_(stack: Stack, *, as_json: bool) -> None:
    """List the lessons, from easy to hard."""
    from live import lessons

    lessons.list_all(stack, as_json=as_json)


@stacks.command()
@click.argument("name", shell_complete=_complete)
def start(stack: Stack, name: str) -> None:
    """Break the lab, and say what there is to see. The lab must be healthy."""
    from live import lessons

    lessons.start(stack, name)


@stacks.command()
def hint(stack: Stack) -> None:
    """Show one more hint."""
    from live import lessons

    lessons.hint(stack)


@stacks.command()
@click.option(
    "--within",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to wait for the effect of a change.  [default: the lesson's own deadline]",
)
def check(stack: Stack, *, within: float | None) -> int:
    """Say whether the lesson is solved. Changes nothing; exit code 1 if it is not solved."""
    from live import lessons

    return lessons.check(stack, within=within)


@stacks.command()
@click.option("--apply", is_flag=True, help="Also run the solution, then check.")
def solve(stack: Stack, *, apply: bool) -> int:
    """Show what is broken, and the reference solution."""
    from live import lessons

    return lessons.solve(stack, apply=apply)


@stacks.command()
def reset(stack: Stack) -> None:
    """End the lesson: make the lab as it was before."""
    from live import lessons

    lessons.reset(stack)


for _command in (list_, start, hint, check, solve, reset):
    lesson.add_command(_command)
