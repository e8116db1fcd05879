"""The programs of a machine, to check what is rendered for it: those of the node image, not of the host.

A host need not have haproxy or nginx (installing them would start them), and the machines' versions are what counts.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain import node_image


class NodeTools:
    """A container of the node image that sees one directory of the host, under the same path."""

    def __init__(self, container: str) -> None:
        self._container = container

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the image; what it says is text."""
        return subprocess.run(
            ["podman", "exec", self._container, *command], capture_output=True, text=True, check=False, timeout=60
        )


def haproxy_without_machine(text: str) -> str:
    """haproxy.cfg for the container: the user that its package makes, and its socket's directory, are the machine's."""
    return re.sub(r"^ +(user|group|stats socket) .*\n", "", text, flags=re.M)


@contextmanager
def node_tools(directory: Path) -> Iterator[NodeTools]:
    """NodeTools that see a directory; the container goes afterwards.

    Fails where podman, its permission or the node image is missing: `./hardway setup` makes them.
    """
    container = f"hw-unit-{os.getpid()}"
    # --privileged: nft checks a ruleset against the kernel, in the container's own network namespace.
    flags = ["--privileged", "--network=none", "--runtime=runc", "--ulimit=nofile=20000:20000"]
    flags += ["--ulimit=nproc=4096:4096", f"--volume={directory}:{directory}"]
    run = ["podman", "run", "-d", f"--name={container}", *flags, node_image.reference(), "sleep", "infinity"]
    started = subprocess.run(run, capture_output=True, text=True, check=False)
    assert started.returncode == 0, f"the node image cannot be run (`./hardway setup` makes it): {started.stderr}"
    try:
        yield NodeTools(container)
    finally:
        subprocess.run(["podman", "rm", "-f", "-t", "0", container], capture_output=True, check=True)
