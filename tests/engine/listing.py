"""Everything on a machine that a lab could change, a line for each thing, so that two times can be compared."""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

KERNEL: Mapping[str, str] = {
    "package": "dpkg-query -W -f '${Package} ${Version} ${Status}\\n'",
    "unit file": "systemctl list-unit-files --no-legend --no-pager | awk '{print $1, $2, $3}'",
    "unit": "systemctl list-units --all --plain --no-legend --no-pager | awk '{print $1, $2, $3, $4}'",
    "nft": "nft list ruleset",
    "route": "ip route show table all",
    "link": "ip -o link",
    "sysctl": "sysctl -a --pattern '^net\\.' 2>/dev/null",
    "mount": "findmnt -rn -o TARGET,SOURCE,FSTYPE,OPTIONS",
    "host name": "hostname",
}
"""What the kernel and systemd hold: a kind of thing -> the command that lists all of that kind."""
_MARK = "\x1e"


def listing(root: Path, bash: Callable[[str], str], asked: Mapping[str, str] = KERNEL) -> set[str]:
    """Files with mode, owner and content, and what the commands say.

    Args:
        root: the machine's, as the host sees it.
        bash: runs a command on it.
        asked: kinds and commands.
    """
    # At once: to enter a container takes longer than any of the answers. None of them reads what stands behind it.
    questions = [f"printf '{_MARK}%s\\n' '{what}'\n{{ {question}\n}} </dev/null" for what, question in asked.items()]
    answers = [part.partition("\n") for part in bash("\n".join(questions)).split(_MARK)[1:]]
    assert [what for what, _, _ in answers] == list(asked)
    held = {f"{what}: {line}" for what, _, said in answers for line in said.splitlines()}
    return held | {f"file: {line}" for line in _files(root, "")}


def _files(root: Path, directory: str) -> set[str]:
    found: set[str] = set()
    for entry in os.scandir(f"{root}{directory or '/'}"):
        path = f"{directory}/{entry.name}"
        if path in ("/proc", "/sys", "/dev"):
            continue
        status = entry.stat(follow_symlinks=False)
        found.add(f"{path} {stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid} {_content(entry)}")
        if entry.is_dir(follow_symlinks=False):
            found |= _files(root, path)
    return found


def _content(entry: "os.DirEntry[str]") -> str:
    if entry.is_symlink():
        return f"-> {Path(entry.path).readlink()}"
    if not entry.is_file():
        return ""
    with Path(entry.path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
