"""The commands that make a lab, change it and take it away: setup, up, preview, policy, destroy, env."""

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from cli import stacks
from config import chapters
from toolchain.errors import ToolchainError
from toolchain.program_host import ProgramHost
from toolchain.stack import Stack

insist_option = click.option(
    "--insist", is_flag=True, help="Continue although etcd loses its quorum, or although a version change is refused."
)
"""The option --insist, of `up` and `replace`."""
_pack_option = click.option(
    "--policy-pack",
    "packs",
    type=stacks.DIRECTORY,
    multiple=True,
    metavar="DIR",
    help="Also check the lab with a Pulumi policy pack; policy/ is the project's own.",
)

_until_option = click.option(
    "--until",
    type=click.Choice(chapters.NAMES),
    metavar="CHAPTER",
    help="End with this chapter of the hard way: docs/by-hand.md.",
)


@stacks.command()
def setup(stack: Stack) -> None:
    """Prepare the Pulumi host and nothing else."""
    from toolchain import prepare
    from toolchain.progress import Report

    with Report() as report:
        prepare.everything(report, stack, retry=True)
    print(f"Everything is set up for the stack {stack.name}: `hardway up -s {stack.name}`.")


@stacks.command()
@insist_option
@_pack_option
@click.option(
    "--plan", type=stacks.FILE, metavar="FILE", help="Do only what `preview --save-plan FILE` showed; else nothing."
)
@_until_option
@click.pass_obj
def up(
    program: ProgramHost | None,
    stack: Stack,
    *,
    insist: bool,
    packs: Sequence[Path],
    plan: Path | None,
    until: str | None,
) -> int:
    """Create the lab, or update it."""
    from live.bring_up import bring_up
    from toolchain import access, operations, policy_packs

    insist_by_variable(insist)
    started = time.monotonic()
    with operations.alone(stack, "./hardway up"):
        options = [*policy_packs.options(packs), *([f"--plan={plan}"] if plan else [])]
        ended = bring_up(stack, options=options, until=until or "", program=program)
        if ended.code != 0:
            return ended.code
        access.show(stack, ended.outputs, ended.table)
    set_up, pulumi, _ = ended.seconds
    total = time.monotonic() - started
    print(
        f"time taken  {total:.1f} s: set-up {set_up:.1f} s, "
        f"pulumi up {pulumi:.1f} s, kubeconfig and nodes {total - set_up - pulumi:.1f} s"
    )
    return 0


@stacks.command()
@_pack_option
@click.option("--save-plan", type=stacks.FILE, metavar="FILE", help="Write the plan to FILE, for `up --plan FILE`.")
@click.option("--drift", is_flag=True, help="Then compare the machines with the state, as `drift` does.")
@_until_option
@click.pass_obj
def preview(
    program: ProgramHost | None,
    stack: Stack,
    *,
    packs: Sequence[Path],
    save_plan: Path | None,
    drift: bool,
    until: str | None,
) -> int:
    """Show what `up` would change. Without --drift it connects to no machine."""
    from toolchain import halted, operations, policy_packs, prepare
    from toolchain.progress import Report

    if since := halted.stopped_since(stack):
        said = halted.said_stopped(stack, since)
        print(f"{said} `./hardway start -s {stack.name}` starts it; so does `up`.", flush=True)
    with Report() as report:
        workshop = prepare.for_preview(report, stack)
    options = [*policy_packs.options(packs), *([f"--save-plan={save_plan}"] if save_plan else [])]
    status = operations.preview(workshop, stack, options=options, until=until or "", program=program)
    if drift and status == 0:
        from live.drift import run as drifts

        with operations.alone(stack, "./hardway preview --drift"):
            print("\n".join(drifts.lines(drifts.find(stack))))
    return status


@stacks.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each event, as Pulumi prints them.")
def policy(stack: Stack, *, as_json: bool) -> int:
    """Check the lab's state with the rules in policy/."""
    from toolchain import operations, policy_packs, prepare
    from toolchain.progress import Report

    with Report(sys.stderr if as_json else sys.stdout) as report:
        workshop = prepare.for_preview(report, stack)
    return operations.analyze(workshop, stack, policy_packs.own(), as_json=as_json)


@stacks.command()
def destroy(stack: Stack) -> int:
    """Remove the lab: machines, network, routes, kubeconfig, saves. Snapshots stay."""
    from live.saves import store
    from toolchain import access, kubeconfig, operations, prepare
    from toolchain.progress import Report

    with operations.alone(stack, "./hardway destroy"):
        merged = kubeconfig.entries(stack)
        with Report() as report:
            workshop = prepare.everything(report, stack)
        status = operations.destroy(workshop, stack)
        if status == 0:
            for problem in kubeconfig.forget(stack, merged):
                print(problem, file=sys.stderr)
            if gone := store.remove_all(stack):
                print(f"Removed its saves, which no other lab can use: {', '.join(gone)}.")
            access.remove(stack)
    return status


@stacks.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def env(stack: Stack, *, as_json: bool) -> None:
    """Print the variables of plain `pulumi`: eval "$(hardway env)"."""
    from toolchain import prepare
    from toolchain.progress import Report

    # The variables alone go to standard output: a shell evaluates it.
    with Report(sys.stderr) as report:
        workshop = prepare.for_plain_pulumi(report, stack)
    if as_json:
        print(json.dumps(workshop.environment, indent=2))
        return
    for name, value in workshop.environment.items():
        print(f"export {name}={shlex.quote(value)}")


def insist_by_variable(insist: bool) -> bool:
    """Whether the user insists, by the option or by INSIST=yes, which the Pulumi program and its commands read.

    Raises:
        ToolchainError: the variable has another value.
    """
    if insist:
        os.environ["INSIST"] = "yes"
    said = os.environ.get("INSIST", "")
    if said not in ("", "yes"):
        raise ToolchainError(f"INSIST={said!r}: must be 'yes', or not set.")
    return said == "yes"
