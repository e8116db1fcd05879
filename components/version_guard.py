"""The versions of a running lab, guarded: what the cluster does not survive is refused before any change.

Made: one command on the Pulumi host, which prints the versions, so that the state has them. Before it is updated, the
engine calls the program, also in a preview: the versions in the state are compared with those that are wanted. `make`
compares before the program runs, also for a lab from before this guard (toolchain/version_changes.py).
"""

from shlex import quote

import pulumi
from pulumi_command import local

from config import upgrade_record, version_changes
from config.lab import Lab


def version_guard(name: str, lab: Lab, opts: pulumi.ResourceOptions) -> local.Command:
    """The command that everything which changes a machine comes after.

    Args:
        name: of the resource.
        lab: what is wanted.
        opts: of the resource.

    Raises, at `up` and `preview`: a report of the versions that the lab cannot change to. INSIST=yes lets it happen.
    """
    wanted = lab.artifacts.versions
    bootstrap = version_changes.made_by(lab.settings.bootstrap, lab.settings.kubeadm.packages)

    def refuse(args: pulumi.ResourceHookArgs) -> None:
        recorded = version_changes.recorded(args.old_outputs)
        before = {product: {version} for product, version in recorded.items()}
        version_changes.check(before, wanted, bootstrap, upgrade_record.permitted(lab.name))

    hook = pulumi.ResourceHook(f"{name}-can-change", refuse, pulumi.ResourceHookOptions(on_dry_run=True))
    return local.Command(
        name,
        create=f"# The versions of the lab.\nprintf '%s\\n' {quote(version_changes.written(wanted))}",
        opts=pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(hooks=pulumi.ResourceHookBinding(before_update=[hook]))
        ),
    )
