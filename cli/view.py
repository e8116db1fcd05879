"""The command that shows a running lab on a page: view."""

import click

from cli import stacks
from toolchain.stack import Stack


@stacks.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="PORT", help="The port on 127.0.0.1.  [default: a free one]"
)
def view(stack: Stack, *, port: int | None) -> None:
    """Show the lab, live, on a page in the browser: docs/view.md. Changes nothing; Ctrl-C ends it."""
    from live import cluster
    from toolchain import view_packages

    lab = cluster.find(stack)
    scripts = view_packages.scripts(view_packages.provide())
    # Only now: it imports these packages.
    from live.view import run

    run.view(lab, scripts, port=port)
