"""The versions of a running lab, guarded: what the cluster does not survive is refused before any change.

Made: one command on the Pulumi host, which prints the versions; the engine keeps what it prints, and an update compares
with it. `make` compares before the program runs, also for labs that are older than this guard (toolchain/versions.py).
"""

from shlex import quote

import pulumi
from pulumi_command import local

from config import version_changes
from config.lab import Lab


def version_guard(name: str, lab: Lab, opts: pulumi.ResourceOptions) -> local.Command:
    """The command that everything which changes a machine comes after.

    Args:
        name: of the resource.
        lab: what is wanted.
        opts: of the resource.

    Raises, at `up`: a report of the versions that the lab cannot change to. INSIST=yes lets it happen.
    """
    versions = quote(version_changes.written(lab.artifacts.versions, bootstrap=lab.settings.bootstrap))
    return local.Command(
        name,
        create=f"# The versions of the lab.\nprintf '%s\\n' {versions}",
        update=f"# The versions of the lab.\nexec .venv/bin/python -m config.version_changes {versions}",
        opts=opts,
    )
