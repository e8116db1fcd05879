"""What the members of archives are, by the archive's checksum.

An archive of a checksum has the same members everywhere. So one machine reads them, which takes as long as unpacking
does, the cache keeps their checksums, and every machine only computes those of its unpacked files.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from config import paths
from config.whole_file import write_whole
from live.drift.recorded import Program, Recorded

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(kw_only=True)
class Members:
    """Of each archive, by its checksum.

    Args:
        wanted: the members that some machine has programs of.
        known: member -> its checksum.
    """

    wanted: dict[str, set[str]]
    known: dict[str, dict[str, str]]

    def lacks(self, sha256: str) -> bool:
        """Whether a machine has yet to read the archive."""
        return not self.wanted[sha256] <= self.known[sha256].keys()

    def learn(self, sha256: str, read: Mapping[str, str]) -> None:
        """Add what a machine has read of an archive that has this checksum, and keep it for later runs."""
        self.known[sha256] |= read
        _keep(sha256, self.known[sha256])

    def of(self, program: Program) -> str:
        """The checksum of a member of an archive; empty if it is not known."""
        return self.known.get(program.sha256 or "", {}).get(program.member or "", "")


def paths_of(recorded: Recorded) -> dict[str, str]:
    """Checksum -> where the archive is, of those that a machine has programs of."""
    return {str(each.sha256): str(each.archive) for each in recorded.programs.values() if each.is_packed}


def known(machines: Iterable[Recorded]) -> Members:
    """What earlier runs have read of the archives of these machines."""
    wanted: dict[str, set[str]] = {}
    for program in (each for machine in machines for each in machine.programs.values()):
        if program.is_packed:
            wanted.setdefault(str(program.sha256), set()).add(str(program.member))
    return Members(wanted=wanted, known={sha256: _read(sha256) for sha256 in wanted})


def _read(sha256: str) -> dict[str, str]:
    try:
        said = json.loads((paths.members() / f"{sha256}.json").read_text())
    except (OSError, ValueError):
        # Not read yet, or damaged: a machine is asked again.
        return {}
    if not isinstance(said, dict):
        return {}
    return {name: each for name, each in said.items() if isinstance(each, str) and _SHA256.fullmatch(each)}


def _keep(sha256: str, members: Mapping[str, str]) -> None:
    directory = paths.members()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / f"{sha256}.json", json.dumps(members, indent=2), mode=0o644)
    except OSError:
        # A cache of another user: the next run asks a machine again.
        pass
