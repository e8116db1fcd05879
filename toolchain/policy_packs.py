"""Policy packs for the CLI, and the environment of the project's own, which is made when it is first asked for."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from toolchain import paths
from toolchain.errors import ToolchainError


def own() -> Path:
    """The project's own pack, ready to run.

    Raises:
        ToolchainError: its environment cannot be made; the output above says why.
    """
    made = subprocess.run([paths.checkout() / "toolchain" / "bootstrap.sh", "policy"], check=False)
    if made.returncode != 0:
        raise ToolchainError("The environment of the policy pack, policy/.venv, was not made.")
    return paths.checkout() / "policy"


def options(packs: Sequence[Path]) -> list[str]:
    """Options of `pulumi up` and `pulumi preview` for some packs.

    Raises:
        ToolchainError: a directory has no pack, or the environment of the project's own cannot be made.
    """
    if wrong := [str(pack) for pack in packs if not (pack / "PulumiPolicy.yaml").is_file()]:
        raise ToolchainError(f"No policy pack (PulumiPolicy.yaml) is in {', '.join(wrong)}.")
    if paths.checkout() / "policy" in packs:
        own()
    return [f"--policy-pack={pack}" for pack in packs]
