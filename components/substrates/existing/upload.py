"""Uploads the artifacts that a machine lacks, from the mirror of the Pulumi host, over SSH."""

import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote

from components.substrates.existing import reach
from components.substrates.existing.plan import Host
from components.substrates.existing.reach import Credentials, HostError

_PIECE = 1 << 20


async def upload(host: Host, mirror: Path, directory: str, files: Mapping[str, str], credentials: Credentials) -> None:
    """Have files of the mirror below a directory of the machine; its steps check them once more before use.

    Args:
        host: where.
        mirror: the Pulumi host's.
        directory: on the machine.
        files: path below both -> sha256.
        credentials: what opens the host.

    Raises:
        HostError: the mirror lacks a file, or the machine cannot be reached.
    """
    if absent := [path for path in files if not (mirror / path).is_file()]:
        raise HostError(f"the mirror {mirror} has no {', '.join(absent)}: `./hardway setup` gets them")
    async with reach.connected(host, credentials) as connection:
        there = await reach.as_root(connection, host.login, _sums(directory, files))
        sums = {path: sha256 for sha256, path in (line.split(maxsplit=1) for line in there.splitlines())}
        missing = [path for path, sha256 in files.items() if sums.get(path) != sha256]
        if not missing:
            return
        command = f"tar -x --no-same-owner -C {quote(directory)}"
        if host.login.user != "root":
            command = f"sudo -n {command}"
        async with connection.create_process(command, encoding=None) as process:
            # Where it ends early, it says why.
            with suppress(OSError):
                for piece in _archive(mirror, missing):
                    process.stdin.write(piece)
                    await process.stdin.drain()
                process.stdin.write_eof()
            done = await process.wait()
    if done.returncode != 0:
        said = done.stderr or b""
        why = said if isinstance(said, str) else said.decode(errors="replace")
        raise HostError(f"{host.login}: unpacking failed: {why.strip()}")
    size = sum((mirror / path).stat().st_size for path in missing)
    print(f"{len(missing)} files, {size >> 20} MiB", file=sys.stdout)


async def withdraw(host: Host, directory: str, credentials: Credentials) -> None:
    """Remove all that was uploaded. Succeeds if it is gone."""
    async with reach.connected(host, credentials) as connection:
        await reach.as_root(connection, host.login, f"rm -rf {quote(directory)}")


def _sums(directory: str, files: Mapping[str, str]) -> str:
    """The shell lines that print sum and path of what is there."""
    paths = " ".join(map(quote, files))
    return f"mkdir -p {quote(directory)} && cd {quote(directory)} && {{ sha256sum {paths} 2>/dev/null || true; }}"


def _archive(mirror: Path, paths: list[str]) -> Iterator[bytes]:
    """A tar stream, piece by piece."""
    for path in paths:
        file = mirror / path
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = file.stat().st_size, 0o755
        yield entry.tobuf(tarfile.GNU_FORMAT)
        with file.open("rb") as content:
            while piece := content.read(_PIECE):
                yield piece
        yield b"\0" * (-entry.size % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)
