"""What a lab was made with for good (config/choices.py), in the state as JSON: another value is refused.

Made: one command on the Pulumi host whose output is the JSON. It runs before anything of the lab is changed.
"""

from collections.abc import Mapping
from shlex import quote

import pulumi
from pulumi_command import local

from config import choices


def immutable_settings(name: str, chosen: Mapping[str, str], opts: pulumi.ResourceOptions) -> local.Command:
    """The command that everything which changes a lab comes after.

    Args:
        name: of the resource.
        chosen: key of `lab` -> its value.
        opts: of the resource.

    Raises, at `up`: what the lab was made with, and what it is to have.
    """
    return local.Command(
        name,
        create=f"# The immutable settings of the lab, JSON.\n{_say(chosen)}",
        # An error shows a command, not its input.
        update="# immutable settings\nexec sh -s",
        stdin=refuse(chosen),
        opts=opts,
    )


def refuse(chosen: Mapping[str, str]) -> str:
    """The shell lines that print the settings if they are those that the lab was made with."""
    return "\n".join(
        [
            f"wanted={quote(choices.written(chosen))}",
            f"older={quote(choices.written(choices.older(chosen)))}",
            'made_with() { [ "$PULUMI_COMMAND_STDOUT" = "$1" ]; }',
            *refused_unless('{ made_with "$wanted" || made_with "$older"; }', "$PULUMI_COMMAND_STDOUT", "$wanted"),
            _say(chosen),
        ]
    )


def refused_unless(condition: str, before: str, wanted: str) -> list[str]:
    """The shell lines that end a script with the report, unless a condition holds.

    Args:
        condition: a shell command.
        before: what the lab was made with, as a here document may have it.
        wanted: what it is to have, likewise.
    """
    return [
        f"if ! {condition}; then",
        "  cat >&2 <<END",
        "Refused, and nothing was changed: this setting of a running lab is immutable. The lab was made with",
        f"{before}",
        "and is to have",
        f"{wanted}",
        "Restore the setting, or recreate the lab: ./hardway destroy, then ./hardway up.",
        "END",
        "  exit 1",
        "fi",
    ]


def _say(chosen: Mapping[str, str]) -> str:
    return f"printf '%s\\n' {quote(choices.written(chosen))}"
