"""What images stand on: accounts, CAs, and files out of Debian's packages."""

import re
import tarfile
from pathlib import Path

from toolchain.errors import ToolchainError
from toolchain.from_source import debian
from toolchain.from_source.image_archive import File, Link
from toolchain.progress import Part


def accounts() -> dict[str, File | Link]:
    """The files that name root and nonroot."""
    users = "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/home/nonroot:/bin/false\n"
    groups = "root:x:0:\nnonroot:x:65532:\n"
    return {"/etc/passwd": File(content=users.encode()), "/etc/group": File(content=groups.encode())}


def authorities(part: Part, work: Path) -> bytes:
    """Debian's bundle of CAs; not this machine's, which may have others."""
    root = work / "authorities.tar"
    debian.files(part, root, packages=["ca-certificates"])
    with tarfile.open(root) as tar:
        names = sorted(name for name in tar.getnames() if re.search(r"/usr/share/ca-certificates/.*\.crt$", name))
        return b"".join(_content(tar, name) for name in names)


def member(archive: Path, path: str) -> bytes:
    """A file of a Debian root, also where /bin is a link to /usr/bin."""
    with tarfile.open(archive) as tar:
        name = next(name for name in tar.getnames() if re.fullmatch(rf"(\./)?(usr/)?{path}", name))
        return _content(tar, name)


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    if stream is None:
        raise ToolchainError(f"{tar.name!s} has no regular file {name}.")
    return stream.read()
