"""The commands by which a person reaches a lab: kubectl, ssh, logs, kubeconfig, pki export."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from cli import stacks
from config.errors import UserError
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_COMPLETION_SECONDS = 5
_PROGRAMS = (
    "containerd",
    "etcd",
    "haproxy",
    "keepalived",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "nginx",
)


class _Kubectl(click.Command):
    """Takes every word behind `kubectl` as it is: `-s`, `--help` and `--` are kubectl's there."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words."""
        ctx.params["words"] = tuple(args)
        return []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Have kubectl complete its own options; the words are completed by `_complete_kubectl`."""
        return _complete_kubectl(ctx, self.params[0], incomplete)


def _complete_kubectl(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from toolchain import access
    from toolchain.command import ask

    try:
        chosen = stacks.chosen(ctx)
        program, *options = access.kubectl_command(chosen)
        words = ("__complete", *options, *ctx.params["words"], incomplete)
        environment = access.kubectl_environment(chosen)
        said = ask(program, *words, env=environment, timeout=_COMPLETION_SECONDS).stdout
    except (UserError, OSError, subprocess.TimeoutExpired):
        return []
    # A line for each word, with its description behind a tab; the last line says how to go on.
    lines = [line.partition("\t") for line in said.splitlines() if not line.startswith((":", "_activeHelp_"))]
    return [CompletionItem(word, help=description or None) for word, _, description in lines]


@click.command(cls=_Kubectl, params=[click.Argument(["words"], nargs=-1, shell_complete=_complete_kubectl)])
@click.pass_context
def kubectl(ctx: click.Context, words: Sequence[str]) -> None:
    """Run the lab's kubectl as its administrator.

    Every word behind `kubectl` is kubectl's, as it is: give `-s NAME` before it.
    """
    from toolchain import access

    access.kubectl(stacks.chosen(ctx), words)


@stacks.command(cls=click.Command, hidden=True)
@click.argument("line")
def kubectl_line(stack: Stack, line: str) -> None:
    """For `make kubectl ARGS=...`: the words of kubectl in one string, quoted in it as for a shell."""
    from toolchain import access

    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ToolchainError(f"ARGS={line!r}: {error}.") from None
    access.kubectl(stack, words)


class _Ssh(click.Command):
    """Takes every word behind `--` as it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split the words at the first `--`."""
        end = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, args[:end])
        ctx.params["command"] = tuple(args[end + 1 :])
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show the command in the usage."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@stacks.command(cls=_Ssh)
@click.argument("machine", shell_complete=stacks.complete_machine)
def ssh(stack: Stack, machine: str, command: Sequence[str]) -> None:
    """Open a shell on a machine, or run one command there.

    The words behind `--` arrive on the machine as they are: they are quoted for its shell. A single word is a line for
    that shell: hardway ssh worker-0 -- 'systemctl status kubelet | head'.
    """
    from toolchain import access

    words = [word for word in command if word] if len(command) == 1 else list(command)
    access.ssh(stack, machine, words[0] if len(words) == 1 else shlex.join(words))


def _complete_program(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in _PROGRAMS if name.startswith(incomplete)]


@stacks.command(cls=click.Command)
@click.argument("machine", shell_complete=stacks.complete_machine)
@click.argument("program", required=False, shell_complete=_complete_program)
@click.option("-f", "--follow", is_flag=True, help="Show new lines until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="How many lines.")
def logs(stack: Stack, machine: str, program: str | None, *, follow: bool, lines: int) -> None:
    """Show the log of a machine, or of one program there.

    PROGRAM is a systemd unit, such as kubelet or etcd. In a lab of kubeadm etcd, the control plane and kube-proxy are
    pods: the log of their container is shown.
    """
    from live import cluster
    from live import logs as showing
    from toolchain import access

    found = cluster.find(stack, part_too=True)
    where = found.machine(machine)
    script = showing.script(found, where, program, follow=follow, lines=lines)
    # With a terminal there, Ctrl-C here ends the program there.
    access.ssh(found.stack, machine, where.as_root(script), terminal=follow and sys.stdout.isatty())


@stacks.command(cls=click.Command)
@click.option("--merge", is_flag=True, help="Merge it into KUBECONFIG, else ~/.kube/config, as the current context.")
def kubeconfig(stack: Stack, *, merge: bool) -> None:
    """Print the administrator's kubeconfig, or merge it into yours.

    Its cluster, user and context are called hardway-NAME. `destroy` removes these entries again, where they still are
    this lab's.
    """
    from toolchain import kubeconfig as files

    if not merge:
        print(files.text(stack), end="")
        return
    file = files.merge(stack)
    print(f"The context {files.context(stack)} is in {file}, and is the current one: kubectl get nodes")


@click.group()
def pki() -> None:
    """Copy the lab's certificates and keys: `pki export`."""


@stacks.command()
@click.argument("directory", metavar="DIR", type=stacks.FILE)
def export(stack: Stack, directory: Path) -> None:
    """Write certificates, keys, kubeconfigs and the encryption configuration to a new directory.

    In the layout of lab 3: docs/certificates.md.
    """
    from live import pki_export

    files = pki_export.export(stack, directory)
    print(f"{directory} has {len(files)} files, for its owner alone: pki/, configs/, data-encryption/.")
    print("It contains all keys of the lab: protect it like a key.")


pki.add_command(export)
