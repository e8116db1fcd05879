"""How far the rotations of a lab's keys are (config/rotations.py), in the state: a stage that is left out is refused.

Made, in a lab that has rotated a key: one command on the Pulumi host, whose output is the record. It runs before any
key is made.
"""

from shlex import quote

import pulumi
from pulumi_command import local

from config.rotations import KEY, SUBJECTS, Rotations, lines


def rotation_record(name: str, rotations: Rotations, opts: pulumi.ResourceOptions) -> local.Command:
    """The command that every key of the lab comes after.

    Args:
        name: of the resource.
        rotations: as the settings have them.
        opts: of the resource.

    Raises, at `up`: which subject the state has at another stage.
    """
    say = f"printf %s {quote(lines(rotations))}"
    return local.Command(
        name,
        create=f"# How far the rotations of keys are.\n{say}",
        # An error shows a command, not its input.
        update="# rotations\nexec sh -s",
        logging=local.Logging.STDERR,
        stdin="\n".join([*_checks(rotations), say, ""]),
        opts=opts,
    )


def _checks(rotations: Rotations) -> list[str]:
    """The shell lines that end the script unless each subject is at the wanted stage, or at the one before it."""
    checks = ["wrong="]
    for subject in SUBJECTS:
        wanted = rotations[subject]
        allowed = [f"{subject} {wanted}"]
        if wanted.count:
            allowed.append(f"{subject} {wanted.before(subject)}")
        patterns = " ".join(f"-e {quote(each)}" for each in allowed)
        checks.append(
            f"printf '%s\\n' \"$PULUMI_COMMAND_STDOUT\" | grep -qxF {patterns} ||"
            f" wrong=\"$wrong $(printf '%s\\n' \"$PULUMI_COMMAND_STDOUT\" | grep '^{subject} ')"
            f' (wanted: {wanted})"'
        )
    return [
        *checks,
        'if [ -n "$wrong" ]; then',
        '  echo "Refused, and nothing was changed: a stage of a rotation is left out:$wrong." >&2',
        f"  echo 'Put {KEY} back as it was, then: ./hardway rotate' >&2",
        "  exit 1",
        "fi",
    ]
