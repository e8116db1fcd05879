"""Keep the SSH host keys in a lab's pool secret from all users except root and qemu's own user.

The provider makes a cloud-init disk with mode 0644, and libvirt makes a pool's directory with 0711: anyone with the
name of such a disk could read the host key in it. Run by the substrate `libvirt` as a program of its own (standard
library only): on the pool's directory before anything is in it, then on each cloud-init disk.
"""

import argparse
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

# Where the processor is emulated, libvirt first asks each qemu what it can do.
_SECONDS = 300


def main() -> int:
    """Close what is named; exit status 1 with one line where that fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uri", required=True)
    parser.add_argument("path", type=Path)
    args = parser.parse_args()
    try:
        close(args.path, qemus_user(args.uri))
    except (OSError, ValueError, SyntaxError, subprocess.SubprocessError) as error:
        print(f"{args.path} stays readable for others: {error}", file=sys.stderr)
        return 1
    return 0


def qemus_user(uri: str) -> int:
    """The user that qemu runs as: root where libvirt has none of its own for it.

    Raises:
        ValueError: libvirt does not tell.
    """
    answer = subprocess.run(
        ["virsh", "-q", "-c", uri, "capabilities"], capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines() or ["it said nothing"]
        raise ValueError(f"libvirt at {uri} does not report its capabilities: {said[-1]}")
    models = ElementTree.fromstring(answer.stdout).findall("host/secmodel")
    labels = [model.findtext("baselabel") or "" for model in models if model.findtext("model") == "dac"]
    if not labels:
        return 0
    # Like +64055:+994.
    if (label := re.fullmatch(r"\+(\d+):\+\d+", labels[0])) is None:
        raise ValueError(f"libvirt at {uri} has qemu run as {labels[0]!r}, which is no user's number")
    return int(label[1])


def close(path: Path, user: int) -> None:
    """Give a directory or file to a user, and remove all permissions of other users, except root.

    Raises:
        OSError: it is not there, or a symbolic link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fchmod(descriptor, 0o700 if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 0o600)
        os.fchown(descriptor, user, -1)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
