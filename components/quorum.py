"""The guard of etcd's quorum: an `up` that would lose it is refused before anything is changed.

Made: one command on the Pulumi host that remembers which machines carry a member, and how each is defined. When that
changes, more than half of the machines must stay as they are: what they hold is the cluster. A removed member leaves by
the etcd component's own way; a recreated machine has lost its data. Members are asked, too (members.py): more
than half must be healthy ones that stay.

Labs of earlier versions have their immutable settings here, too, in square brackets. They are compared for the last
time when this guard is updated; components/immutable_settings.py has them from then on. A line of today has no blank.
"""

import hashlib
from collections.abc import Mapping

import pulumi
from pulumi_command import local

from components.immutable_settings import immutable_settings, refused_unless
from components.members import COUNT
from config import choices


def quorum_guard(
    name: str, definitions: Mapping[str, str], chosen: Mapping[str, str], opts: pulumi.ResourceOptions, ask: str
) -> local.Command:
    """Make the guard, and after it the record of the immutable settings.

    Args:
        name: of the resource.
        definitions: machine name -> what it is made from, for each that carries an etcd member; another definition is
            another machine.
        chosen: the immutable settings, see config/choices.py.
        opts: of the resource.
        ask: the shell functions `can_ask` and `state_of MACHINE`, see members.py.

    Returns:
        The command that everything which removes or replaces a machine comes after.

    Raises, at `up`: a report that says what would go. The environment variable INSIST=yes lets it happen.
    """
    members = "\n".join(
        f"{machine}={hashlib.sha256(definition.encode()).hexdigest()[:16]}"
        for machine, definition in sorted(definitions.items())
    )
    guard = local.Command(
        name,
        create=remember(members),
        # An error shows a command, not its input.
        update="# quorum of etcd\nexec sh -s",
        stdin=refuse(members, chosen, ask),
        opts=opts,
    )
    # After the guard: in a lab of an earlier version it may refuse these settings, and then they are not recorded.
    after_guard = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[guard]))
    return immutable_settings(f"{name.removesuffix('-quorum')}-settings", chosen, after_guard)


def remember(members: str) -> str:
    """The shell lines that print the members; the engine keeps what they print."""
    return f"# The machines that carry etcd, and their definitions.\nprintf '%s\\n' '{members}'"


def refuse(members: str, chosen: Mapping[str, str], ask: str = "") -> str:
    """The shell lines that compare the members with those of the `up` before, and print them if enough stay."""
    return "\n".join(
        [
            "# The machines that carry etcd, and their definitions: more than half must stay.",
            "set -eu",
            f"wanted='{members}'",
            "said=$PULUMI_COMMAND_STDOUT",
            *_read_older_form(choices.as_word(choices.older(chosen))),
            "before=$(printf '%s\\n' \"$said\" | grep -c .)",
            'gone=$(printf \'%s\\n\' "$said" | grep -vxF "$wanted" | cut -d = -f 1 | xargs)',
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
        "names() { printf '%s\\n' \"$1\" | cut -d = -f 1; }",
        'if ! names "$said" | grep -qxF "$(names "$wanted")"; then',
        "  cat >&2 <<END",
        "Refused, and nothing was removed or replaced: etcd cannot move to other machines while the lab is up. None",
        'of its machines, $(names "$said" | xargs), would carry a member. Restore the',
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
        '  count_healthy "$(names "$said")" "$gone"',
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


def _read_older_form(word: str) -> list[str]:
    return [
        "case $said in *' '*)",
        "  made_with=$(printf '%s\\n' \"$said\" | sed -n '1s/^[^ []*\\[\\([^ ]*\\)\\] .*/\\1/p')",
        *refused_unless(f"[ \"$made_with\" = '{word}' ]", "${made_with:-the defaults}", word or "the defaults"),
        "  said=$(printf '%s\\n' \"$said\" | sed 's/\\[[^ ]*\\]//; s/ /=/')",
        "esac",
    ]
