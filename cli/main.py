"""The command `hardway` as a whole: its subcommands, what it prints when one fails, and its exit codes."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import click

from cli import stacks
from cli.access import kubeconfig, kubectl, kubectl_line, logs, pki, ssh
from cli.by_hand import diff
from cli.completion import completion
from cli.development import bench, compare, pins, scale
from cli.explain import explain
from cli.lab import destroy, env, policy, preview, setup, up
from cli.lessons import lesson
from cli.machines import free, trust
from cli.operations import (
    certs,
    check_network,
    cis,
    conformance,
    drift,
    drill,
    repair,
    replace,
    restore,
    rotate,
    search,
    snapshot,
    status,
    upgrade,
)
from cli.power import start, stop
from cli.saves import rewind, save, saves
from cli.trace import trace
from cli.view import view
from config.errors import UserError
from toolchain import owner
from toolchain.errors import needs_sudo
from toolchain.program_host import ProgramHost

PROGRAM, COMPLETE_VARIABLE = "hardway", "_HARDWAY_COMPLETE"
FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

_SECTIONS: Mapping[str, Sequence[click.Command]] = {
    "The lab": (setup, up, preview, policy, destroy, env),
    "Access": (kubectl, ssh, logs, view, kubeconfig, pki),
    "Operations": (
        status,
        check_network,
        certs,
        rotate,
        upgrade,
        drift,
        repair,
        snapshot,
        restore,
        replace,
        drill,
        search,
        cis,
        conformance,
    ),
    "Lessons": (lesson, trace),
    "By hand": (diff,),
    "Stop and rewind": (stop, start, save, saves, rewind),
    "Existing hosts": (trust, free),
    "The project": (explain, pins, bench, compare, scale, completion),
}
_HIDDEN = (kubectl_line,)
_EXIT_CODES = """\
\b
Exit codes:
  0    success; `status`: the lab is healthy
  1    failure, with the reason on standard error; `status`: the lab is not healthy; `cis`: a check fails;
       `conformance`: a test fails or has no result; `policy`: a rule is violated;
       `drift`, `repair`: there is drift; `certs`: one differs or expires;
       `drill`, `search`: a measured value is above its limit; `lesson check`: the lesson is not solved;
       `check-network`: a way is not open; `diff`: something differs or is missing
  2    wrong usage: nothing was changed; `drift`, `repair`, `certs`, `check-network`, `diff`: a query failed
  130  interrupted by Ctrl-C
  `kubectl`, `ssh` and `logs` end with the code of that program (ssh: 255 if it cannot connect to the machine), `up`,
  `preview`, `destroy` and `replace` with the code of Pulumi if it fails.

\b
Variables: STACK (the default of --stack), INSIST=yes (--insist), TOOLCHAIN=source (build everything) or
TOOLCHAIN=upstream (official releases only), HARDWAY_CACHE (the directory of downloads and builds).
"""


class _Sections(click.Group):
    """A group whose help lists the commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each section below its title."""
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(each.name), each.get_short_help_str(limit=90)) for each in commands])


@click.group(
    cls=_Sections,
    invoke_without_command=True,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@stacks.option
@click.pass_context
def group(ctx: click.Context) -> None:
    """A Kubernetes cluster, built the hard way: create a lab, use it, destroy it."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (*(each for commands in _SECTIONS.values() for each in commands), *_HIDDEN):
    group.add_command(_command)


def main(arguments: Sequence[str], program: ProgramHost | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words behind `hardway`.
        program: what runs the program of an `up` or a preview, if it has been started.

    Returns:
        The exit code. What went wrong stands on standard error then.
    """
    with owner.keeps_files():
        return _run(list(arguments), program)


def _run(arguments: list[str], program: ProgramHost | None) -> int:
    try:
        status = group.main(
            args=arguments, prog_name=PROGRAM, standalone_mode=False, complete_var=COMPLETE_VARIABLE, obj=program
        )
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else PROGRAM
        message = error.format_message()
        end = "" if message.endswith((".", "?")) else "."
        return _failed(f"{message}{end} See `{path} --help`.", WRONG_USAGE)
    except click.Abort:
        return _failed("interrupted. What is done is kept; run the same command again to continue.", INTERRUPTED)
    except click.ClickException as error:
        return _failed(error.format_message(), FAILED)
    except UserError as error:
        return _failed(str(error), FAILED)
    except PermissionError as error:
        return _failed(needs_sudo(error), FAILED)
    except BrokenPipeError:
        # Whoever read the output has ended. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except (OSError, subprocess.SubprocessError) as error:
        return _failed(str(error), FAILED)
    return status if isinstance(status, int) else 0


def _failed(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
