"""The SSH key of a lab, by which it is known whose the lab is, as Pulumi's state and the lab's files have it.

The state has the lab's first key, which stays its identity; the files have the key that opens the machines now. They
differ after a rotation of the key (components/ssh_keys.py).
"""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolchain import paths
from toolchain.command import ask
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_KEY = "::machines-ssh"
FINGERPRINT = "publicKeyFingerprintSha256"
"""The output that is a lab's identity, also after a rotation of its key."""


def owner_program(substrate: str) -> Path:
    """A substrate's program that finds out whose what has a lab's names is."""
    return Path(__file__).parents[1] / "components" / "substrates" / substrate / "owner.py"


def ask_owner(substrate: str, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run that program."""
    return ask(sys.executable, "-B", owner_program(substrate), *words, stdin=stdin, cwd=paths.checkout())


def output_of(resources: Iterable[Mapping[str, Any]], output: str) -> str:
    """One output of the resource that is the lab's SSH key; empty where the state has none.

    Args:
        resources: of the state, as `pulumi stack export` has them.
        output: publicKeyOpenssh or `FINGERPRINT`.
    """
    for resource in resources:
        if str(resource["urn"]).endswith(_KEY):
            return str((resource.get("outputs") or {}).get(output) or "").strip()
    return ""


def of_files(stack: Stack) -> str:
    """The public key that opens the machines now, of the private one beside the kubeconfig: any backend has made that.

    Raises:
        ToolchainError: it cannot be read.
    """
    file = stack.directory / "ssh_key"
    done = ask("ssh-keygen", "-y", "-f", file)
    if done.returncode != 0:
        raise ToolchainError(f"The lab's key {file} cannot be read: {done.stderr.strip()}")
    return " ".join(done.stdout.split()[:2])
