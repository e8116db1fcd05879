"""Archives of programs, laid out as upstream's releases are. They stay on this machine: quick to unpack, not small."""

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path


def write(archive: Path, members: Mapping[str, Path]) -> None:
    """Write a .tar.gz without real compression; the same files make the same bytes.

    Args:
        archive: the file to write.
        members: name in the archive -> program.
    """
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=0, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, program in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = program.stat().st_size, 0o755
            with program.open("rb") as content:
                tar.addfile(entry, content)
