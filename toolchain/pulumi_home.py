"""The directory that the Pulumi CLI keeps its own files in, for the runs of `./hardway`: one in which it keeps no log.

The CLI writes all that the engine does, with the inputs and outputs of each resource, compressed and encrypted to
`logs` in its home (3.259.0: pkg/logging/encrypted.go). It has no switch for that, and it took a fifth of a preview's
time. Where it cannot make that directory, it goes on without a log. Plain `pulumi` keeps its log, as ever.
"""

import os
import pwd
from pathlib import Path

from config.whole_file import link_whole
from toolchain.state import State


def of_user() -> Path:
    """The home that the CLI has where nothing else is said.

    As the CLI finds it: not by HOME, which sudo may keep.
    """
    return Path(os.environ.get("PULUMI_HOME") or Path(pwd.getpwuid(os.getuid()).pw_dir) / ".pulumi")


def without_log(state: State) -> dict[str, str]:
    """Make a home without a log beside the state.

    It has the user's plugins, and nothing else of the user's home: with a state in this checkout the CLI needs no
    account. Any other backend keeps the user's home, and its log.

    Returns:
        The variables of the environment that lead the CLI to it.
    """
    if state.directory is None or "PULUMI_BACKEND_URL" not in state.environment:
        return {}
    # One for each user: a preview without sudo must not lead an `up` with sudo to other plugins.
    home, plugins = state.directory / f"pulumi-home-{os.getuid()}", of_user() / "plugins"
    home.mkdir(mode=0o700, exist_ok=True)
    # A file, where the CLI would make a directory.
    (home / "logs").touch()
    # The engine may install a provider there, and a link to nothing would be in its way.
    plugins.mkdir(mode=0o700, parents=True, exist_ok=True)
    link_whole(home / "plugins", plugins)
    return {"PULUMI_HOME": str(home)}
