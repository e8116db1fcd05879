"""The command `completion`: what bash, zsh and fish evaluate to complete subcommands, options, stacks and machines."""

import click
from click.shell_completion import get_completion_class

_LINES = {
    "bash": "echo 'source <(hardway completion bash)' >> ~/.bashrc",
    "zsh": "echo 'source <(hardway completion zsh)' >> ~/.zshrc   # after compinit",
    "fish": "hardway completion fish > ~/.config/fish/completions/hardway.fish",
}


@click.command(
    epilog="\b\nTo have it in every new shell:\n" + "\n".join(f"  {line}" for line in _LINES.values()),
)
@click.argument("shell", type=click.Choice(list(_LINES)))
def completion(shell: str) -> None:
    """Print the completion script for a shell."""
    from cli.main import COMPLETE_VARIABLE, PROGRAM, group

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(group, {}, PROGRAM, COMPLETE_VARIABLE).source())
