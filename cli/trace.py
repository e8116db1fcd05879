"""The commands that show what happens inside a running lab: trace pod."""

from collections.abc import Callable
from typing import Any

import click

from cli import stacks
from toolchain.stack import Stack


@click.group()
@stacks.option
def trace() -> None:
    """Show what happens inside a running lab, with evidence: docs/trace.md."""


def _form(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say in which form a trace is printed."""
    as_json = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
    as_mermaid = click.option("--mermaid", "as_mermaid", is_flag=True, help="As a Mermaid sequence diagram.")
    return as_json(as_mermaid(function))


def _check_form(*, as_json: bool, as_mermaid: bool) -> None:
    if as_json and as_mermaid:
        raise click.UsageError("--json and --mermaid exclude each other.")


@stacks.command()
@click.argument("name", metavar="[[NAMESPACE/]POD]", required=False)
@_form
def pod(stack: Stack, name: str | None, *, as_json: bool, as_mermaid: bool) -> int:
    """Run a Pod and delete it: one timeline from its submission to its removal, with evidence.

    With a POD that exists: its timeline until now. It is not changed.
    """
    _check_form(as_json=as_json, as_mermaid=as_mermaid)
    from live import cluster
    from live.trace import pod as pods
    from live.trace import pod_report

    lab = cluster.find(stack)
    if name is None:
        record = pods.run(lab)
    else:
        namespace, _, pod_name = name.rpartition("/")
        record = pods.follow(lab, namespace or "default", pod_name)
    found = pod_report.timeline(record)
    print(found.json() if as_json else found.mermaid() if as_mermaid else "\n".join(found.lines()))
    return found.exit_code


for _command in (pod,):
    trace.add_command(_command)
