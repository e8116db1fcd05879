"""How far the rotations of a lab's keys are (config/rotations.py), in the state: a stage that is left out is refused.

Made, in a lab that has rotated a key: one command on the Pulumi host, whose output is the record. It is one of the
checks of the substrate, so it comes before anything that a stage changes on a machine.
"""

from collections.abc import Sequence
from shlex import quote

import pulumi
from pulumi_command import local

from config.rotations import KEY, Rotations, lines, of_lines, refused

_NAME = "rotation-record"


class StageError(Exception):
    """The report of the stages that are left out."""


def rotation_record(rotations: Rotations, checks: Sequence[pulumi.Resource]) -> list[pulumi.Resource]:
    """The record, which comes after the other checks; nothing in a lab that never rotated a key.

    Args:
        rotations: as the settings have them.
        checks: the other checks of the substrate.

    Raises, at `up` and `preview`: each subject that the state has at another stage.
    """
    if not rotations:
        return []

    def refuse(args: pulumi.ResourceHookArgs) -> None:
        check(of_lines(str((args.old_outputs or {}).get("stdout", ""))), rotations)

    hook = pulumi.ResourceHook(f"{_NAME}-next-stage", refuse, pulumi.ResourceHookOptions(on_dry_run=True))
    return [
        local.Command(
            _NAME,
            create=f"# How far the rotations of keys are.\nprintf %s {quote(lines(rotations))}",
            opts=pulumi.ResourceOptions(
                depends_on=list(checks), hooks=pulumi.ResourceHookBinding(before_update=[hook])
            ),
        )
    ]


def check(before: Rotations, wanted: Rotations) -> None:
    """Refuse a stage that is left out.

    Raises:
        StageError: with each subject.
    """
    if found := refused(before, wanted):
        raise StageError(
            "\n".join(
                [
                    "Refused, and nothing was changed: a stage of a rotation is left out.",
                    *(f"  {each}" for each in found),
                    f"Restore the setting {KEY}, then: ./hardway rotate",
                ]
            )
        )
