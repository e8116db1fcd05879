"""The commands that show what happens inside a running lab: trace pod, trace packet."""

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
@click.option("-n", "--namespace", default="default", metavar="NAME", help="Of a name without one.  [default: default]")
@_form
def pod(stack: Stack, name: str | None, *, namespace: str, as_json: bool, as_mermaid: bool) -> int:
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
        own, _, pod_name = name.rpartition("/")
        record = pods.follow(lab, own or namespace, pod_name)
    found = pod_report.timeline(record)
    print(found.json() if as_json else found.mermaid() if as_mermaid else "\n".join(found.lines()))
    return found.exit_code


@stacks.command()
@click.argument("pod_name", metavar="[[NAMESPACE/]POD", required=False)
@click.argument("service_name", metavar="[NAMESPACE/]SERVICE]", required=False)
@click.option("-n", "--namespace", default="default", metavar="NAME", help="Of names without one.  [default: default]")
@_form
def packet(
    stack: Stack, pod_name: str | None, service_name: str | None, *, namespace: str, as_json: bool, as_mermaid: bool
) -> int:
    """Follow one request from a Pod to a Service, hop by hop, with evidence from the machines.

    Without arguments: from a Pod to a Service on another worker that are made for it, and removed.

    Exit codes: 0 the request was answered, 1 it was not.
    """
    _check_form(as_json=as_json, as_mermaid=as_mermaid)
    if pod_name is not None and service_name is None:
        raise click.UsageError("Name a Pod and a Service, or neither.")
    from live import cluster
    from live.trace import packet as packets

    found = packets.run(cluster.find(stack), pod_name, service_name, namespace=namespace)
    if as_json or as_mermaid:
        print(found.json() if as_json else found.mermaid())
    else:
        print("\n".join(packets.lines(found)))
    return 0 if found.answered else 1


for _command in (pod, packet):
    trace.add_command(_command)
