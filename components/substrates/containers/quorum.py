"""Whether etcd keeps its quorum without a container: asked right before anything removes it.

Pulumi's own commands remove machines past the guard of `up` (components/quorum.py): `--replace` of a machine or of the
network runs their deletions, and after `pulumi state delete` the creation removes what has the machine's name. So these
scripts ask the members themselves. They take turns: of two removals in one run the second sees what the first has left.

A file on the Pulumi host says that removals are checked. It belongs to a resource that comes after all machines:
`pulumi destroy` deletes that first, and removes all machines then. INSIST=yes in the environment lets a removal pass.
"""

from collections.abc import Sequence
from shlex import quote

from components.members import ANSWER_SECONDS, COUNT, question
from components.substrates.containers.owner import RECORDS
from components.substrates.pulumi_host import script


def keep_quorum(lab: str, records: str = RECORDS) -> str:
    """The shell lines that have removals of a lab's machines checked from now on."""
    return script(
        f"removals of hardway-{lab}'s etcd members are checked",
        f"as_root mkdir -p {records}",
        f"as_root touch {_mark(lab, records)}",
    )


def give_up_quorum(lab: str, records: str = RECORDS) -> str:
    """The shell line that is the reverse of `keep_quorum`."""
    return f"as_root rm -f {_mark(lab, records)}"


def states(engine: str, prefix: str, timeout_factor: int) -> str:
    """The functions `can_ask` and `state_of MACHINE`, for sh, see components/members.py."""
    ask, seconds = question(timeout_factor), ANSWER_SECONDS * timeout_factor
    # Standard input may be the script itself.
    return "\n".join(
        [
            "can_ask() { :; }",
            "state_of() {",
            f"  there=$(as_root {engine} ps -aq --filter 'name=^{prefix.replace('.', '[.]')}-'\"$1\"'$') || return 0",
            '  [ -n "$there" ] || { echo none; return 0; }',
            f'  as_root timeout {seconds} {engine} exec {prefix}-"$1" bash -c {quote(ask)} || true',
            "} </dev/null 2>/dev/null",
        ]
    )


def check_removal(
    lab: str,
    engine: str,
    timeout_factor: int,
    *,
    members: Sequence[str],
    removed: Sequence[str],
    records: str = RECORDS,
) -> list[str]:
    """The shell lines, for bash, that end a script with an error where a removal would lose the quorum or the data.

    Args:
        lab: the stack's name.
        engine: podman or docker.
        timeout_factor: what deadlines are multiplied by.
        members: all machines with an etcd member.
        removed: those of them that would be removed.
        records: the directory of the mark.
    """
    mark = _mark(lab, records)
    return [
        f'if [ -e {mark} ] && [ "${{INSIST:-}}" != yes ]; then',
        states(engine, f"hardway-{lab}", timeout_factor),
        f"  exec 7<{mark}",
        "  flock 7",
        COUNT,
        f"  count_healthy '{' '.join(members)}' '{' '.join(removed)}'",
        f'  if [ "$data" = yes ] && [ $((2 * healthy)) -le {len(members)} ]; then',
        "    cat >&2 <<END",
        f"Refused: this would remove {', '.join(removed)}. etcd has {len(members)} "
        f"member{'s' if len(members) > 1 else ''}, needs {len(members) // 2 + 1}, and $healthy would be healthy."
        "${silent:+ Not healthy:$silent.}",
        f"Nothing was removed here. See: ./hardway status -s {lab}. To insist: save the data with ./hardway",
        "snapshot, set INSIST=yes in the environment, then ./hardway restore.",
        "END",
        "    exit 1",
        "  fi",
        "fi",
    ]


UNLOCKED = "7<&-"
"""For commands after `check_removal`: what they start must not keep its lock."""


def _mark(lab: str, records: str) -> str:
    return f"{records}/{lab}.keeps-quorum"
