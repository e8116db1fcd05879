"""The guard of etcd's quorum: an `up` that would lose it is refused before anything is changed.

Made: one command on the Pulumi host that remembers which machines carry a member, and how each is defined. When that
changes, more than half of the machines must stay as they are: what they hold is the cluster. A removed member leaves by
the etcd component's own way; a recreated machine has lost its data. Members are asked, too (members.py): more
than half must be healthy ones that stay.

What the lab was made with for good (config/choices.py) is remembered and guarded with them.
"""

import hashlib
from collections.abc import Mapping

import pulumi
from pulumi_command import local

from components.members import COUNT


def quorum_guard(
    name: str, definitions: Mapping[str, str], choices: str, opts: pulumi.ResourceOptions, ask: str
) -> local.Command:
    """The command that everything which removes or replaces a machine comes after.

    Args:
        name: of the resource.
        definitions: machine name -> what it is made from, for each that carries an etcd member; another definition is
            another machine.
        choices: what the lab is made with and cannot change, as one word; empty where all of it is the default.
        opts: of the resource.
        ask: the shell functions `can_ask` and `state_of MACHINE`, see members.py.

    Raises, at `up`: a report that says what would go. The environment variable INSIST=yes lets it happen.
    """
    made_with = f"[{choices}]" if choices else ""
    members = "\n".join(
        f"{machine}{made_with} {hashlib.sha256(definition.encode()).hexdigest()[:16]}"
        for machine, definition in sorted(definitions.items())
    )
    return local.Command(
        name,
        create=remember(members),
        # An error shows a command, not its input.
        update="# quorum of etcd\nexec sh -s",
        stdin=refuse(members, choices, ask),
        opts=opts,
    )


def remember(members: str) -> str:
    """The shell lines that print the members; the engine keeps what they print."""
    return f"# The machines that carry etcd, and their definitions.\nprintf '%s\\n' '{members}'"


def refuse(members: str, choices: str = "", ask: str = "") -> str:
    """The shell lines that compare the members with those of the `up` before, and print them if enough stay.

    A lab that goes back to the defaults is refused by the quorum's rule: none of its members is what it was.
    """
    return "\n".join(
        [
            "# The machines that carry etcd, and their definitions: more than half must stay.",
            "set -eu",
            *(_refuse_other_choices(choices) if choices else ()),
            f"wanted='{members}'",
            "before=$(printf '%s\\n' \"$PULUMI_COMMAND_STDOUT\" | grep -c .)",
            "gone=$(printf '%s\\n' \"$PULUMI_COMMAND_STDOUT\" | grep -vxF \"$wanted\" | cut -d ' ' -f 1 | xargs)",
            "kept=$((before - $(echo $gone | wc -w)))",
            *_refuse_other_machines(),
            'if [ $((2 * kept)) -le "$before" ] && [ "${INSIST:-}" != yes ]; then',
            "  cat >&2 <<END",
            "Refused, and nothing was changed: this would remove or recreate $gone, and the quorum of etcd with it:",
            "$before members need $((before / 2 + 1)), and $kept would stay. All data of the cluster would be lost.",
            "Change fewer machines at once. To insist: save the data with ./hardway snapshot, set INSIST=yes in the",
            "environment (./hardway up --insist), then ./hardway restore.",
            "END",
            "  exit 1",
            "fi",
            *(_refuse_unhealthy(ask) if ask else ()),
            "printf '%s\\n' \"$wanted\"",
        ]
    )


def _refuse_other_machines() -> list[str]:
    """Also with INSIST: new members find none of the old ones by the new list, and a restore would not find them."""
    return [
        "names() { printf '%s\\n' \"$1\" | sed 's/[[ ].*//'; }",
        'if ! names "$PULUMI_COMMAND_STDOUT" | grep -qxF "$(names "$wanted")"; then',
        "  cat >&2 <<END",
        "Refused, and nothing was removed or replaced: etcd cannot move to other machines while the lab is up. None",
        'of its machines, $(names "$PULUMI_COMMAND_STDOUT" | xargs), would carry a member. Restore the',
        "configuration; or recreate the lab: ./hardway snapshot, ./hardway destroy, ./hardway up, ./hardway restore.",
        "END",
        "  exit 1",
        "fi",
    ]


def _refuse_unhealthy(ask: str) -> list[str]:
    return [
        ask,
        COUNT,
        'if [ -n "$gone" ] && [ "${INSIST:-}" != yes ] && can_ask; then',
        "  members=$(printf '%s\\n' \"$PULUMI_COMMAND_STDOUT\" | sed 's/[[ ].*//')",
        '  count_healthy "$members" "$(echo $gone | sed \'s/\\[[^ ]*//g\')"',
        '  if [ "$data" = yes ] && [ $((2 * healthy)) -le "$before" ]; then',
        "    cat >&2 <<END",
        "Refused, and nothing was changed: this would remove or recreate $gone, and the quorum of etcd with it:",
        "$before members need $((before / 2 + 1)), and $healthy that stay are healthy.${silent:+ Not healthy:$silent.}",
        "Repair these first (./hardway status), or change fewer machines at once. To insist: save the data with",
        "./hardway snapshot, set INSIST=yes in the environment (./hardway up --insist), then ./hardway restore.",
        "END",
        "    exit 1",
        "  fi",
        "fi",
    ]


def _refuse_other_choices(choices: str) -> list[str]:
    return [
        "first=$(printf '%s\\n' \"$PULUMI_COMMAND_STDOUT\" | head -n 1)",
        "made_with=$(printf '%s\\n' \"$first\" | sed -n 's/^[^ []*\\[\\([^ ]*\\)\\] .*/\\1/p')",
        f"if [ \"$made_with\" != '{choices}' ]; then",
        "  cat >&2 <<END",
        "Refused, and nothing was changed: this setting of a running lab is immutable. The lab was made with",
        "${made_with:-the defaults}, and is to have",
        f"{choices}.",
        "Restore the setting, or recreate the lab: destroy it, then make it.",
        "END",
        "  exit 1",
        "fi",
    ]
