"""The command `diff`: what was made by hand, compared with what the program would make."""

import sys
from typing import TYPE_CHECKING

import click

from cli import stacks
from config import chapters
from config.errors import UserError
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

if TYPE_CHECKING:
    from live.by_hand import compare


@click.command(cls=stacks.LabCommand)
@stacks.option
@click.argument("name", metavar="CHAPTER", type=click.Choice(chapters.NAMES))
@click.pass_context
def diff(ctx: click.Context, name: str) -> int:
    """Compare the machines with what a chapter would write there. Changes nothing: docs/by-hand.md.

    CHAPTER is one of machines, certificates, kubeconfigs, encryption, etcd, control-plane, load-balancer, workers,
    pod-network, dns. No content of a key or a kubeconfig is printed. Certificates are compared by what they say.

    Exit codes: 0 nothing differs, 1 something differs or is missing, 2 a query failed.
    """
    from live.by_hand import compare
    from toolchain import operations

    try:
        stack = stacks.chosen(ctx)
        chapters.check_has_chapters(stack.bootstrap)
        with operations.alone(stack, "./hardway diff"):
            found = _find(stack, chapters.chapter(name))
    except (UserError, OSError) as error:
        # Not 1, which says that something differs.
        print(f"error: {error}", file=sys.stderr)
        return compare.NOT_ASKED
    print("\n".join(compare.text(found, chapters.chapter(name), stack.name)))
    return found.exit_code


def _find(stack: Stack, chapter: chapters.Chapter) -> "compare.Comparison":
    from cli import planned_steps
    from live import cluster
    from live.by_hand import compare
    from live.drift import recorded
    from live.drift.run import state_of

    lab = cluster.find(stack, part_too=True)
    planned = planned_steps.plan(stack, state_of(stack))
    if not chapter.files:
        kinds = set(chapter.components) - set(chapter.beyond)
        planned = [each for each in planned if each.component in kinds]
    wanted = {
        name: compare.of_chapter(chapter, machine)
        for name, machine in recorded.read([each.step for each in planned]).items()
    }
    unknown = {path for each in planned for path in each.unknown}
    if any(not chapter.files or compare.is_about(chapter, path) for path in unknown):
        raise ToolchainError(
            f"The lab {stack.name} has no keys yet, so the program does not know what it would write: "
            f"`./hardway up -s {stack.name} --until encryption` creates them, and writes nothing on the machines."
        )
    return compare.compare(lab, {name: machine for name, machine in wanted.items() if compare.has_any(machine)})
